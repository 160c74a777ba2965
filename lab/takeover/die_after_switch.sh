#!/bin/sh
# Runs a takeover and kills it as soon as the APIService leads to another namespace: die_after_switch.sh KUBECTL KUBECONFIG COMMAND ...
# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later
set -eu
kubectl=$1 kubeconfig=$2
shift 2
leads_to() {
	"$kubectl" --kubeconfig="$kubeconfig" get apiservice v1beta1.metrics.k8s.io --output=jsonpath='{.spec.service.namespace}'
}
before=$(leads_to)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# In a session of its own, so that everything that it has started ends with it.
setsid "$@" >"$log" 2>&1 &
run=$!
while kill -0 "$run" 2>/dev/null; do
	if [ "$(leads_to)" != "$before" ]; then
		kill -s KILL -- "-$run"
		exit 0
	fi
	sleep 0.2
done
cat "$log"
echo "It ended before the APIService had changed." >&2
exit 1
