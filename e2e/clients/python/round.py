"""The Python client's round: create, watch, patch and delete, with typed and dynamic objects.

Usage: round.py NAMESPACE, with KUBECONFIG set.
"""

import sys
import threading

from kubernetes import client, config, dynamic, watch

namespace = sys.argv[1]
config.load_kube_config()
core, apps = client.CoreV1Api(), client.AppsV1Api()

version = client.VersionApi().get_code()
assert version.minor.startswith("36"), version

# Create, with a watch that started before.
seen = []
started = core.list_namespaced_config_map(namespace).metadata.resource_version


def follow():
    events = watch.Watch()
    for event in events.stream(
        core.list_namespaced_config_map,
        namespace,
        label_selector="round=python",
        resource_version=started,
        timeout_seconds=30,
    ):
        seen.append((event["type"], event["object"].data["k"]))
        if event["type"] == "DELETED":
            events.stop()


watcher = threading.Thread(target=follow)
watcher.start()
created = core.create_namespaced_config_map(
    namespace,
    client.V1ConfigMap(
        metadata=client.V1ObjectMeta(generate_name="round-", labels={"round": "python"}),
        data={"k": "one"},
    ),
)
name = created.metadata.name
assert name.startswith("round-") and created.metadata.uid

# Patch in three ways, read, replace with a stale version.
core.patch_namespaced_config_map(name, namespace, {"data": {"k": "two"}})
core.patch_namespaced_config_map(name, namespace, [{"op": "replace", "path": "/data/k", "value": "three"}])
api = dynamic.DynamicClient(client.ApiClient())
maps = api.resources.get(api_version="v1", kind="ConfigMap")
applied = maps.server_side_apply(
    body={"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "four"}},
    namespace=namespace,
    field_manager="round",
    force_conflicts=True,
)
assert applied.data["k"] == "four", applied
try:
    core.replace_namespaced_config_map(name, namespace, created)
    raise SystemExit("a stale object replaced a newer one")
except client.ApiException as error:
    assert error.status == 409, error

# A Deployment, its scale, its status.
apps.create_namespaced_deployment(
    namespace,
    {
        "metadata": {"name": "round"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "busybox:1.35", "command": ["sleep", "3600"]}]},
            },
        },
    },
)
scale = apps.patch_namespaced_deployment_scale("round", namespace, {"spec": {"replicas": 2}})
assert scale.spec.replicas == 2, scale
assert apps.read_namespaced_deployment_status("round", namespace).spec.replicas == 2
pages = core.list_namespaced_config_map(namespace, limit=1)
assert len(pages.items) == 1

# Delete.
apps.delete_namespaced_deployment("round", namespace, propagation_policy="Foreground")
core.delete_namespaced_config_map(name, namespace, grace_period_seconds=0)
watcher.join(timeout=40)
wanted = [("ADDED", "one"), ("MODIFIED", "two"), ("MODIFIED", "three"), ("MODIFIED", "four"), ("DELETED", "four")]
assert seen == wanted, seen
try:
    core.read_namespaced_config_map(name, namespace)
    raise SystemExit("a deleted object was read")
except client.ApiException as error:
    assert error.status == 404, error
print("round complete")
