"""Checks deploy/kubernetes: against Kubernetes' own schemas, and for what Tokenkeep needs.

Prints what the test in tests/operations.rs knows more about: {"commands": [[...]], "config": "..."}.
"""

import json
import pathlib
import sys

import kubernetes_validate
import yaml

FOLDER = pathlib.Path(__file__).parents[2] / "deploy" / "kubernetes"
# Of the Prometheus Operator, and of kustomize: Kubernetes has no schema for them.
OTHERS = {"ServiceMonitor", "Kustomization"}
# The longest clean stop.
STOP_S = 65


def documents():
    for path in sorted(FOLDER.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield path.name, document


def check(condition, what):
    if not condition:
        sys.exit(f"deploy/kubernetes: {what}")


found = {}
for name, document in documents():
    kind = document["kind"]
    found.setdefault(kind, []).append(document)
    if kind not in OTHERS:
        try:
            kubernetes_validate.validate(document, "1.30", strict=True)
        except kubernetes_validate.ValidationError as error:
            sys.exit(f"deploy/kubernetes/{name}: {'.'.join(map(str, error.path))}: {error.message}")
        check(document["metadata"]["labels"]["app.kubernetes.io/name"] == "tokenkeep", f"{name} has no label")

listed = set(found["Kustomization"][0]["resources"])
by_hand = {"kustomization.yaml", "secret.example.yaml", "servicemonitor.yaml"}
check(listed | by_hand == {path.name for path in FOLDER.glob("*.yaml")}, f"kustomization.yaml lists {sorted(listed)}")

(stateful,) = found["StatefulSet"]
check(stateful["spec"]["replicas"] == 1, "two daemons with one grant end it: one replica")
check(stateful["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain", "the state must outlive it")
(claim,) = stateful["spec"]["volumeClaimTemplates"]
check(claim["spec"]["accessModes"] in (["ReadWriteOnce"], ["ReadWriteOncePod"]), "the volume is one pod's")
template = stateful["spec"]["template"]
check(stateful["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items(), "it selects others")
pod = template["spec"]
check(pod["terminationGracePeriodSeconds"] > STOP_S, "a clean stop takes up to 65 s")
check(pod["automountServiceAccountToken"] is False, "it asks the cluster nothing")
(container,) = pod["containers"]

# The restricted pod security standard.
security, own = pod["securityContext"], container["securityContext"]
check(security["runAsNonRoot"] is True and security["runAsUser"] == 65532, "the image's user is 65532")
check(security["seccompProfile"]["type"] == "RuntimeDefault", "no seccomp profile")
check(own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"] is True, "privileges, or a writable root")
check(own["capabilities"] == {"drop": ["ALL"]}, "capabilities are kept")
check(not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), "it is in the host's namespaces")
check(all(set(v) - {"name"} <= {"configMap", "secret"} for v in pod["volumes"]), "a volume that restricted pods may not have")

mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
check(set(mounts) == {v["name"] for v in pod["volumes"]} | {claim["metadata"]["name"]}, "mounts and volumes differ")
variables = {variable["name"]: variable["value"] for variable in container["env"]}
check(variables["TOKENKEEP_STATE_DIR"].startswith(mounts["state"] + "/"), "the mount itself is root's")
check(variables["CREDENTIALS_DIRECTORY"] == mounts["secrets"], "credentials are looked for elsewhere")
check(container["args"][-1].startswith(mounts["config"] + "/"), "the configuration is elsewhere")
config = found["ConfigMap"][0]["data"][container["args"][-1].rsplit("/", 1)[1]]
(secret,) = found["Secret"]
for key in secret["stringData"]:
    check(f'{{ credential = "{key}" }}' in config, f"the configuration does not use {key} of the Secret")

(policy,) = found["NetworkPolicy"]
check(set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"} and policy["spec"]["ingress"] == [], "it is open")

probes = [container[probe]["exec"]["command"][1:] for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
json.dump({"commands": [container["args"], *probes], "config": config}, sys.stdout)
