"""The other server that Atelier is compared with: diffusers' pipeline behind LitServe, which batches whole requests.

Requests of a batch that differ in prompt and seed only share a call of the pipeline; LitServe waits 50 ms for up to
eight. Needs `benchmarks/requirements.txt`.
"""

from __future__ import annotations

import argparse
from itertools import groupby
from typing import Any

import litserve

from benchmarks.baseline import GenerateRequest, draw, load

_MAX_BATCH, _BATCH_WAIT_S = 8, 0.05


class Generations(litserve.LitAPI):  # type: ignore[misc]  # litserve is not installed where types are checked
    """The route of OpenAI's API, in LitServe's form."""

    def __init__(self, num_threads: int) -> None:
        super().__init__(max_batch_size=_MAX_BATCH, batch_timeout=_BATCH_WAIT_S, api_path="/v1/images/generations")
        self._num_threads = num_threads

    def setup(self, device: str) -> None:  # noqa: ARG002 only the CPU is used
        self._pipeline = load(self._num_threads)

    # LitServe passes the JSON body if the parameter has no type.
    def decode_request(self, request) -> GenerateRequest:  # type: ignore[no-untyped-def]
        return GenerateRequest.model_validate(request)

    def batch(self, inputs: list[GenerateRequest]) -> list[GenerateRequest]:
        return inputs

    def predict(self, requests: list[GenerateRequest]) -> list[list[str]]:
        files: dict[int, list[str]] = {}
        order = sorted(range(len(requests)), key=lambda index: _settings(requests[index]))
        for _, group in groupby(order, key=lambda index: _settings(requests[index])):
            indices = list(group)
            files |= zip(indices, draw(self._pipeline, [requests[index] for index in indices]), strict=True)
        return [files[index] for index in range(len(requests))]

    def unbatch(self, output: list[list[str]]) -> list[list[str]]:
        return output

    def encode_response(self, output: list[str]) -> dict[str, Any]:
        return {"data": [{"b64_json": image} for image in output]}


def _settings(request: GenerateRequest) -> tuple[str, int, int, float]:
    """What requests of one call must have in common."""
    return request.size, request.n, request.num_inference_steps, request.guidance_scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    server = litserve.LitServer(Generations(options.threads), accelerator="cpu", timeout=False)
    server.run(host="127.0.0.1", port=options.port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
