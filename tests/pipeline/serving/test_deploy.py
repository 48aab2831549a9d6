"""The files for clusters in deploy/."""

from ...support.paths import ROOT


def test_the_files_for_clusters_are_what_their_programs_take():
    """Read as YAML, and by what docker compose and Kubernetes' own schemas say; probes ask what the server answers."""
    import yaml

    compose = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
    manifest = list(yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text()))
    container = next(doc for doc in manifest if doc["kind"] == "StatefulSet")["spec"]["template"]["spec"]["containers"][0]

    assert {"serve"} <= set(compose["services"])
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
