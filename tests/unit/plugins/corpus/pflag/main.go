// SPDX-License-Identifier: GPL-3.0-or-later

// Command pflag says what pflag makes of command lines. It reads a JSON list of {component, words} and a JSON file of each
// component's flags with their types, and writes the same list with what every given flag means, or with the error.
package main

import (
	"encoding/json"
	"os"

	"github.com/spf13/pflag"
	cliflag "k8s.io/component-base/cli/flag"
)

type flagType struct{ Name, Type, NoOpt, Short string }

type line struct {
	Component string         `json:"component"`
	Words     []string       `json:"words"`
	Means     map[string]any `json:"means,omitempty"`
	Error     string         `json:"error,omitempty"`
}

func read(path string, into any) {
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		panic(err)
	}
}

func parse(known []flagType, words []string) (map[string]any, error) {
	set := pflag.NewFlagSet("x", pflag.ContinueOnError)
	set.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	lists, maps := map[string]*[]string{}, map[string]*map[string]string{}
	for _, one := range known {
		switch one.Type {
		case "stringSlice", "int32Slice":
			lists[one.Name] = set.StringSliceP(one.Name, one.Short, []string{"default"}, "")
		case "stringArray", "namedCertKey", "reserved-memory":
			lists[one.Name] = set.StringArrayP(one.Name, one.Short, []string{"default"}, "")
		case "mapStringString", "mapStringBool", "colonSeparatedMultimapStringString":
			m := map[string]string{}
			maps[one.Name] = &m
			set.Var(cliflag.NewMapStringString(&m), one.Name, "")
		default:
			set.StringP(one.Name, one.Short, "default", "")
			set.Lookup(one.Name).NoOptDefVal = one.NoOpt
		}
	}
	if err := set.Parse(words); err != nil {
		return nil, err
	}
	means := map[string]any{}
	set.Visit(func(f *pflag.Flag) {
		name := string(cliflag.WordSepNormalizeFunc(nil, f.Name))
		switch {
		case lists[f.Name] != nil:
			means[name] = *lists[f.Name]
		case maps[f.Name] != nil:
			means[name] = *maps[f.Name]
		default:
			means[name] = f.Value.String()
		}
	})
	return means, nil
}

func main() {
	known, lines := map[string][]flagType{}, []line{}
	read(os.Args[1], &known)
	read(os.Args[2], &lines)
	for i := range lines {
		means, err := parse(known[lines[i].Component], lines[i].Words)
		lines[i].Means = means
		if err != nil {
			lines[i].Error = err.Error()
		}
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(lines); err != nil {
		panic(err)
	}
}
