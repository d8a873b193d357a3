"""Routers on two nodes: only those on one node start with a folder; with a bucket all share their images."""

from __future__ import annotations

import base64
import io
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from atelier.stores.names import name_of
from tests.integration.conftest import free_port
from tests.integration.two_nodes import Routers, TwoNodes, two_nodes
from tests.postgres import Postgres, find_programs
from tests.s3 import S3Server, s3_server

pytestmark = pytest.mark.slow

_WAIT_S = 60
_ADVICE = "Set ATELIER_BLOBS_URL=s3://bucket/prefix for all Routers"


class Cluster:
    """Two nodes, each with a proxy that prefers the Router on its own node."""

    def __init__(self, nodes: TwoNodes, first_port: int, second_port: int) -> None:
        self.nodes = nodes
        self.first, self.second = (
            # A new node's proxy listens some seconds after its Router runs.
            httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, transport=httpx2.HTTPTransport(retries=6))
            for port in (first_port, second_port)
        )
        self._port = first_port

    def deploy(self, routers: Mapping[str, object], **environment: str) -> None:
        """Deploy the graph with these options of the Routers and these variables in the application's runtime_env."""
        application = {
            "name": "atelier",
            "import_path": "tests.integration.two_nodes:app",
            "runtime_env": {"env_vars": environment},
            "deployments": [{"name": "Router", "graceful_shutdown_timeout_s": 1, **routers}],
        }
        http = {"host": "127.0.0.1", "port": self._port}
        self.nodes.deploy({"proxy_location": "EveryNode", "http_options": http, "applications": [application]})

    def wait_until(self, is_true: Callable[[Routers], bool]) -> Routers:
        """Wait until the details of the Routers fulfil the condition, and return them."""
        deadline_s = time.monotonic() + _WAIT_S
        routers = self.nodes.routers()
        while routers is None or not is_true(routers):
            assert time.monotonic() < deadline_s, f"not within {_WAIT_S} s: {routers}"
            time.sleep(0.2)
            routers = self.nodes.routers()
        return routers


def _running(routers: Routers) -> list[dict[str, str]]:
    return [replica for replica in routers["replicas"] if replica["state"] == "RUNNING"]


def _runs(num_replicas: int, num_nodes: int) -> Callable[[Routers], bool]:
    """A condition: so many Routers run on so many nodes, and no other Router starts or stops."""

    def is_true(routers: Routers) -> bool:
        nodes = {replica["node_id"] for replica in _running(routers)}
        counts = (len(_running(routers)), len(routers["replicas"]), len(nodes))
        return routers["status"] == "HEALTHY" and counts == (num_replicas, num_replicas, num_nodes)

    return is_true


def _image() -> str:
    source = io.BytesIO()
    Image.effect_noise((32, 32), 90).convert("RGB").save(source, "PNG")
    return base64.b64encode(source.getvalue()).decode()


def _make_image(http: httpx2.Client) -> str:
    """Enlarge an image and return the path of the result's URL."""
    asked = {"image": _image(), "scale": 2, "response_format": "url"}
    answer = http.post("/v1/images/upscale", json=asked)
    assert answer.status_code == 200, answer.text
    url: str = answer.json()["data"][0]["url"]
    return httpx2.URL(url).path


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    # A short name, because paths of Unix sockets are limited in length.
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    first_port, second_port = free_port(), free_port()
    with two_nodes(folder, second_port) as nodes:
        cluster = Cluster(nodes, first_port, second_port)
        with cluster.first, cluster.second:
            yield cluster
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(nodes: Cluster) -> Iterator[Cluster]:
    """The cluster without a graph."""
    yield nodes
    nodes.nodes.delete()


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        server.make_bucket("images")
        yield server


_ON_EACH_NODE = {"num_replicas": 2, "max_replicas_per_node": 1}


def test_routers_on_two_nodes_are_refused_with_a_folder(cluster: Cluster, tmp_path: Path) -> None:
    cluster.deploy(_ON_EACH_NODE, ATELIER_BLOBS_URL=tmp_path.as_uri())
    routers = cluster.wait_until(lambda routers: _ADVICE in routers["message"])
    assert routers["status"] != "HEALTHY"
    assert f"ATELIER_BLOBS_URL = '{tmp_path.as_uri()}' is a folder of this node" in routers["message"]


def test_a_second_router_on_another_node_is_refused_and_the_first_one_goes_on(
    cluster: Cluster, tmp_path: Path
) -> None:
    alone = {"num_replicas": 1, "max_replicas_per_node": 1}
    cluster.deploy(alone, ATELIER_BLOBS_URL=tmp_path.as_uri())
    [first] = _running(cluster.wait_until(_runs(1, 1)))
    path = _make_image(cluster.first)
    cluster.deploy({**alone, "num_replicas": 2}, ATELIER_BLOBS_URL=tmp_path.as_uri())
    routers = cluster.wait_until(lambda routers: _ADVICE in routers["message"])
    assert [replica["replica_id"] for replica in _running(routers)] == [first["replica_id"]]
    # The proxies of both nodes reach the Router.
    assert cluster.first.get(path).content == cluster.second.get(path).content


def test_two_routers_on_one_of_two_nodes_share_a_folder(cluster: Cluster, tmp_path: Path) -> None:
    on_the_head = {"num_cpus": 0.1, "resources": {"head": 0.1}}
    cluster.deploy({"num_replicas": 2, "ray_actor_options": on_the_head}, ATELIER_BLOBS_URL=tmp_path.as_uri())
    cluster.wait_until(_runs(2, 1))


def test_a_missing_bucket_fails_the_deployment_with_the_reason(cluster: Cluster, s3: S3Server) -> None:
    cluster.deploy({"num_replicas": 1}, ATELIER_BLOBS_URL="s3://missing/images", **s3.environment)
    message = cluster.wait_until(lambda routers: "s3://missing/images" in routers["message"])["message"]
    assert "RuntimeError: ATELIER_BLOBS_URL = 's3://missing/images' cannot be used: " in message
    assert "NoSuchBucket" in message
    assert "Debug source" not in message


def test_routers_on_two_nodes_are_refused_with_jobs_in_a_file(cluster: Cluster, s3: S3Server, tmp_path: Path) -> None:
    stores = {"ATELIER_BLOBS_URL": "s3://images/atelier", "ATELIER_DATABASE_URL": f"sqlite:///{tmp_path / 'jobs.db'}"}
    cluster.deploy(_ON_EACH_NODE, **stores, **s3.environment)
    routers = cluster.wait_until(lambda routers: "Set ATELIER_DATABASE_URL=postgresql://" in routers["message"])
    assert f"ATELIER_DATABASE_URL = '{stores['ATELIER_DATABASE_URL']}' is a file of this node" in routers["message"]


@pytest.mark.skipif(find_programs() is None, reason="initdb is not installed")
def test_routers_on_two_nodes_share_a_bucket_and_a_database(
    cluster: Cluster, s3: S3Server, request: pytest.FixtureRequest
) -> None:
    database: Postgres = request.getfixturevalue("postgres_server")
    stores = {"ATELIER_BLOBS_URL": "s3://images/atelier", "ATELIER_DATABASE_URL": database.new_database("two_nodes")}
    cluster.deploy(_ON_EACH_NODE, **stores, **s3.environment)
    cluster.wait_until(_runs(2, 2))
    path = _make_image(cluster.second)
    whole = cluster.second.get(path)
    image = _image()
    handed_in = {"operation": "upscale", "input": {"image": image, "scale": 2}}
    job = cluster.first.post("/v1/jobs", json=handed_in).raise_for_status().json()
    assert cluster.second.get(f"/v1/jobs/{job['id']}").json()["state"] == "queued"
    cluster.nodes.replace_second_node()
    cluster.wait_until(lambda routers: not _runs(2, 2)(routers))
    cluster.wait_until(_runs(2, 2))
    for http in (cluster.first, cluster.second):
        assert http.get(path).content == whole.content
        head = http.head(path)
        assert (head.status_code, head.headers["etag"]) == (200, whole.headers["etag"])
        part = http.get(path, headers={"range": "bytes=8-15"})
        assert (part.status_code, part.content) == (206, whole.content[8:16])
        assert http.get(path, headers={"if-none-match": whole.headers["etag"]}).status_code == 304
    name = path.rpartition("/")[2]
    input_image = f"/images/atelier/jobs/{name_of(base64.b64decode(image), 'png')}"
    objects = {f"/images/atelier/{name}", input_image, "/images/atelier/start-check"}
    assert {path for method, path in s3.requests() if method != "POST"} - {"/images"} <= objects | {
        "/missing/images/start-check"
    }
    s3.stop()
    for http in (cluster.first, cluster.second):
        lost = http.get(path)
        assert (lost.status_code, lost.json()["error"]["code"]) == (503, "store_unavailable")
        assert lost.headers["retry-after"] == "5"
