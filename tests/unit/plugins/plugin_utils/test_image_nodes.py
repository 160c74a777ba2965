# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import image_nodes, metrics_server, scheduling

REPOSITORY = "localhost/kubemetrics/metrics-server"
IMAGE = f"{REPOSITORY}:new"
OLD = f"{REPOSITORY}:old"
LABEL = image_nodes.label_of(IMAGE)
PLACEMENT = {
    "selector": {"kubernetes.io/os": "linux"},
    "affinity": {},
    "tolerations": metrics_server.CONTROL_PLANE_TOLERATIONS,
}
TAINT = {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}


def node(name, **changes):
    labels = {"kubernetes.io/os": "linux", "kubernetes.io/hostname": name, **changes.pop("labels", {})}
    plain = {"ready": True, "unschedulable": False, "operating_system": "linux", "taints": [], "control_plane": False}
    return {**plain, **changes, "labels": labels}


def control_plane(name, **changes):
    return node(name, control_plane=True, taints=[TAINT], **changes)


def cluster(workers=8, **others):
    nodes = {"cp1": control_plane("cp1")}
    nodes.update({f"w{number}": node(f"w{number}") for number in range(1, workers + 1)})
    return {**nodes, **others}


def hosts(nodes, *images, only=None):
    return {name: {"images": {"names": list(images), "error": ""}} for name in only or nodes}


def plan(nodes, seen, workers="5", **changes):
    arguments = {"workers": workers, "placement": PLACEMENT, "running": (), **changes}
    return image_nodes.plan(nodes, seen, IMAGE, **arguments)


def after(nodes, seen, made):
    """The cluster once a plan is carried out."""
    nodes = {name: {**entry, "labels": dict(entry["labels"])} for name, entry in nodes.items()}
    for name, label in made["add_labels"].items():
        nodes[name]["labels"].update(label)
    for name, keys in made["remove_labels"].items():
        for key in keys:
            del nodes[name]["labels"][key]
    images = {}
    for name, host in seen.items():
        names = {IMAGE, *host["images"]["names"]} if name in made["load"] else set(host["images"]["names"])
        images[name] = sorted(names & ({IMAGE} if name in made["keep_images"] else set()))
    return nodes, {name: {"images": {"names": names, "error": ""}} for name, names in images.items()}


def nothing_to_do(made):
    return not (made["load"] or made["add_labels"] or made["remove_labels"])


def test_control_planes_and_five_workers_spread():
    nodes = cluster(10)
    made = plan(nodes, hosts(nodes))
    assert made["nodes"] == ["cp1", "w1", "w2", "w4", "w6", "w8"]
    assert made["load"] == made["nodes"] == made["keep_images"] == sorted(made["add_labels"])
    assert made["remove_labels"] == {}


def test_a_second_run_changes_nothing():
    nodes = cluster(10)
    seen = hosts(nodes)
    made = plan(nodes, seen)
    again = plan(*after(nodes, seen, made))
    assert nothing_to_do(again)
    assert again["nodes"] == made["nodes"]


@pytest.mark.parametrize(("workers", "expected"), [("all", 11), ("0", 1), (3, 4), ("100", 11)])
def test_how_many(workers, expected):
    nodes = cluster(10)
    made = plan(nodes, hosts(nodes), workers)
    assert len(made["nodes"]) == expected


@pytest.mark.parametrize("value", ["", "-1", "five", "1.5", "½"])
def test_a_number_that_is_none(value):
    with pytest.raises(image_nodes.ImageNodesError, match="metrics_server_image_nodes is"):
        image_nodes.wanted_workers(value)


def test_zones_get_the_same():
    nodes = {f"w{number}": node(f"w{number}", labels={image_nodes.ZONE: "ab"[number > 6]}) for number in range(1, 9)}
    made = plan(nodes, hosts(nodes), "4")
    assert made["nodes"] == ["w1", "w4", "w7", "w8"]


def test_the_loss_of_a_node_brings_in_another_and_its_return_ends_that():
    nodes = cluster(3)
    seen = hosts(nodes)
    nodes, seen = after(nodes, seen, plan(nodes, seen, "2"))
    assert "w1" in plan(nodes, seen, "2")["nodes"]
    nodes["w1"]["ready"] = False
    down = {name: host for name, host in seen.items() if name != "w1"}
    made = plan(nodes, down, "2")
    assert made["nodes"] == ["cp1", "w2", "w3"]
    # Its label says what it still has on its disk.
    assert made["remove_labels"] == {}
    nodes, down = after(nodes, down, made)
    nodes["w1"]["ready"] = True
    seen = {**down, "w1": seen["w1"]}
    made = plan(nodes, seen, "2", running=["w3"])
    assert len(made["nodes"]) == 3 and "w3" in made["nodes"]
    assert nothing_to_do(plan(*after(nodes, seen, made), "2", running=["w3"]))


def test_a_node_that_lost_the_image_gets_it_again():
    nodes = cluster(8)
    seen = hosts(nodes)
    made = plan(nodes, seen)
    nodes, seen = after(nodes, seen, made)
    lost = made["nodes"][-1]
    seen[lost]["images"]["names"] = []
    again = plan(nodes, seen)
    assert (again["load"], again["add_labels"], again["remove_labels"]) == ([lost], {}, {})
    assert again["nodes"] == made["nodes"]


def test_a_new_version_stands_beside_the_old_one_until_it_runs():
    nodes = cluster(3)
    for entry in nodes.values():
        entry["labels"].update(image_nodes.label_of(OLD))
    made = plan(nodes, hosts(nodes, OLD), "2", running=["w3"])
    assert made["nodes"] == ["cp1", "w1", "w3"]
    # Labels are only removed after the rollout.
    assert made["remove_labels"] == dict.fromkeys(nodes, list(image_nodes.label_of(OLD)))
    assert nothing_to_do(plan(*after(nodes, hosts(nodes, OLD), made), "2", running=["w3"]))


def test_images_of_an_earlier_release_without_labels():
    """It had the image on every node and listed their names in the Deployment."""
    nodes = cluster(8)
    made = plan(nodes, hosts(nodes, IMAGE), running=["w7"])
    assert made["load"] == []
    assert "w7" in made["nodes"]
    assert sorted(made["add_labels"]) == made["nodes"]
    assert made["keep_images"] == made["nodes"]


def test_a_run_for_some_hosts_counts_the_others_that_have_it():
    nodes = cluster(8)
    seen = hosts(nodes)
    nodes, seen = after(nodes, seen, plan(nodes, seen))
    nodes["w9"] = node("w9")
    made = plan(nodes, hosts(nodes, only=["w9"]))
    assert nothing_to_do(made)
    assert made["keep_images"] == []


def test_a_cordoned_node_keeps_what_it_has():
    nodes = cluster(2)
    seen = hosts(nodes)
    nodes, seen = after(nodes, seen, plan(nodes, seen, "1"))
    nodes["w1"]["unschedulable"] = True
    made = plan(nodes, seen, "1")
    assert made["nodes"] == ["cp1", "w2"]
    assert "w1" in made["keep_images"]
    assert made["remove_labels"] == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"operating_system": "windows"}, "runs windows"),
        ({"taints": [{"key": "gpu", "value": "a", "effect": "NoSchedule"}]}, "has the taint gpu=a:NoSchedule"),
        ({"labels": {"kubernetes.io/os": "other"}}, "lacks the label kubernetes.io/os=linux"),
    ],
)
def test_nodes_that_never_take_the_pod(changes, words):
    nodes = {"w1": node("w1"), "w2": node("w2", **changes)}
    made = plan(nodes, hosts(nodes), "all")
    assert made["nodes"] == ["w1"]
    assert made["refused"] == {"w2": words}
    with pytest.raises(image_nodes.ImageNodesError, match=f"No node can run the metrics server: w2 {words}"):
        plan({"w2": nodes["w2"]}, hosts(["w2"]))


def test_a_host_whose_runtime_cannot_be_used():
    nodes = cluster(1)
    seen = hosts(nodes)
    seen["w1"]["images"] = {"names": [], "error": "The program ctr is missing."}
    made = plan(nodes, seen)
    assert (made["nodes"], made["refused"]) == (["cp1"], {"w1": "The program ctr is missing"})


def test_nobody_can():
    with pytest.raises(image_nodes.ImageNodesError, match="w1 is cordoned or not Ready"):
        plan({"w1": node("w1", ready=False)}, hosts(["w1"]))
    with pytest.raises(image_nodes.ImageNodesError, match="the cluster has none"):
        plan({}, {})
    nodes = cluster(30)
    with pytest.raises(image_nodes.ImageNodesError, match="26 more likewise"):
        plan(nodes, {})


def test_removal():
    nodes = cluster(2)
    seen = hosts(nodes)
    nodes, _seen = after(nodes, seen, plan(nodes, seen))
    made = image_nodes.nowhere(nodes)
    assert made["remove_labels"] == dict.fromkeys(nodes, list(LABEL))
    assert (made["nodes"], made["keep_images"]) == ([], [])


def test_labels():
    assert image_nodes.label_of("localhost/a/b:0123456789ab") == {
        "image.kubemetrics.aggregation/0123456789ab": image_nodes.label_of("localhost/a/b:x")[image_nodes.PREFIX + "x"]
    }
    assert image_nodes.label_of("r/a:1") != image_nodes.label_of("r/b:1")
    (key,) = image_nodes.label_of("r:" + "x" * 100)
    assert len(key.partition("/")[2]) == 12


def test_patches():
    assert image_nodes.patches({"w1": {"a": "b"}})[0]["metadata"] == {"name": "w1", "labels": {"a": "b"}}
    assert image_nodes.patches({"w1": ["a"]})[0]["metadata"] == {"name": "w1", "labels": {"a": None}}


def seen_nodes(*labelled, **changes):
    names = ["w1", "w2", "w3"]
    return {
        name: {"ready": True, "unschedulable": False, "image_labels": list(LABEL) if name in labelled else []}
        | changes.get(name, {})
        for name in names
    }


@pytest.mark.parametrize(
    ("nodes", "images", "words"),
    [
        (seen_nodes("w1", "w2"), {}, ""),
        (seen_nodes(), {}, ""),
        (seen_nodes("w1"), {}, "Only the node w1 holds the metrics server's image: run site again"),
        (
            seen_nodes("w1", "w2", w2={"ready": False}),
            {},
            "Only the node w1 holds the metrics server's image (w2 is not",
        ),
        (seen_nodes("w1", w1={"unschedulable": True}), {}, "No node that can take pods holds"),
        (seen_nodes("w1", "w2"), {"w2": {"names": [], "error": ""}}, "image (w2 has lost it)"),
        (seen_nodes("w1", "w2"), {"w2": {"names": [IMAGE], "error": ""}}, ""),
        (seen_nodes("w1", "w2"), {"w2": {"names": [], "error": "cannot list"}}, ""),
    ],
)
def test_too_few_are_left(nodes, images, words):
    found = image_nodes.availability(nodes, images)["warning"]
    assert words in found
    assert bool(found) == bool(words)


def test_one_node_is_enough_for_a_cluster_of_one():
    nodes = {"w1": {"ready": True, "image_labels": list(LABEL)}}
    assert image_nodes.availability(nodes)["warning"] == ""


def test_time_grows_with_the_number_of_nodes(processor_seconds):
    def measure(number):
        nodes = cluster(number)
        return processor_seconds(plan, nodes, hosts(nodes), "all")

    measure(100)
    assert measure(8000) < 40 * max(measure(1000), 0.002)


@pytest.mark.parametrize(
    ("expression", "matches"),
    [
        ({"key": "a", "operator": "In", "values": ["x", "1"]}, True),
        ({"key": "a", "operator": "In", "values": ["x"]}, False),
        ({"key": "a", "operator": "NotIn", "values": ["x"]}, True),
        ({"key": "b", "operator": "NotIn", "values": ["x"]}, True),
        ({"key": "a", "operator": "Exists"}, True),
        ({"key": "b", "operator": "Exists"}, False),
        ({"key": "b", "operator": "DoesNotExist"}, True),
        ({"key": "a", "operator": "Gt", "values": ["0"]}, True),
        ({"key": "a", "operator": "Lt", "values": ["0"]}, False),
        ({"key": "b", "operator": "Gt", "values": ["0"]}, False),
    ],
)
def test_node_affinity(expression, matches):
    required = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    why_not = scheduling.refusal({"a": 1}, [], "w1", selector={}, affinity=affinity, tolerations=[])
    assert (why_not == "") is matches


def test_node_affinity_by_name():
    required = {
        "nodeSelectorTerms": [
            {},
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["w1"]}]},
        ]
    }
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    found = [scheduling.refusal({}, [], name, selector={}, affinity=affinity, tolerations=[]) for name in ("w1", "w2")]
    assert found == ["", "does not match metrics_server_extra_affinity"]


@pytest.mark.parametrize(
    ("toleration", "matches"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "k", "operator": "Exists"}, True),
        ({"key": "k", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "k", "value": "v"}, True),
        ({"key": "k", "operator": "Equal", "value": "other"}, False),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_tolerations(toleration, matches):
    taint = {"key": "k", "value": "v", "effect": "NoSchedule"}
    assert scheduling.tolerates([toleration], taint) is matches


def test_taints_of_the_moment_do_not_count():
    taints = [
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"},
        {"key": "soft", "effect": "PreferNoSchedule"},
    ]
    assert scheduling.refusal({}, taints, "w1", selector={}, affinity=None, tolerations=[]) == ""


def test_where_an_image_is_needed_and_tried():
    def one(architecture, **more):
        return {"architecture": architecture, "ready": True, "labels": {}, "taints": [], **more}

    nodes = {
        "a1": one("amd64", ready=False),
        "a2": one("amd64"),
        "b1": one("arm64", unschedulable=True),
        "c1": one("s390x", operating_system="windows"),
        "d1": one("ppc64le", taints=[{"key": "own", "effect": "NoSchedule"}]),
    }
    assert image_nodes.pulling(nodes, {}) == {"architectures": ["amd64", "arm64"], "trial": ["a2"]}
    plan = {"load": ["a2"], "nodes": ["a2", "b1"]}
    assert image_nodes.loaded(nodes, plan) == {"architectures": ["amd64"], "trial": ["a2"]}


def test_an_image_is_tried_with_each_container_runtime():
    nodes = {
        name: {"architecture": architecture, "ready": True, "runtime": runtime}
        for name, architecture, runtime in (
            ("a", "amd64", "containerd"),
            ("b", "amd64", "docker"),
            ("c", "amd64", "containerd"),
            ("d", "arm64", "containerd"),
        )
    }
    assert image_nodes.trial(nodes) == ["a", "b", "d"]
