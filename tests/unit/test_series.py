"""What is said of Ray where no running graph can show it: nodes with a GPU, the list of nodes, Serve's states."""

from __future__ import annotations

from pathlib import Path

import yaml
from ray._common.utils import get_default_ray_temp_dir
from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES
from ray.serve._private.common import DeploymentStatus

from docs.panels import panels
from tests.series import GPU_SERIES

_PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus" / "prometheus.yml"


def test_nodes_with_a_gpu_have_the_series_that_expressions_use() -> None:
    gauges = {f"ray_{name}": set(gauge.view.columns) for name, gauge in METRICS_GAUGES.items()}
    for name, labels in GPU_SERIES.items():
        assert labels <= gauges[name]


def test_prometheus_reads_the_list_of_nodes_that_ray_writes() -> None:
    [job] = yaml.safe_load(_PROMETHEUS.read_text())["scrape_configs"]
    assert job["file_sd_configs"] == [
        {"files": [f"{get_default_ray_temp_dir()}/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]}
    ]


def test_the_panel_of_health_names_the_states_of_serve() -> None:
    [panel] = [panel for panel in panels() if panel.states]
    states = {
        status.to_numeric(): status.value.lower().replace("deploy_failed", "failed to deploy")
        for status in DeploymentStatus
    }
    assert panel.states == {0: "unknown", **states}
