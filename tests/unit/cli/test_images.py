"""`generate`, `edit` and `upscale`: what they hand in, save and print."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests.pictures import encoded, noise, pixels_of
from tests.unit.cli.conftest import Atelier, RunningServer

_QUICK = ("--steps", "2", "--size", "64x32")


def test_an_image_is_that_of_a_direct_request(atelier: Atelier, server: RunningServer) -> None:
    ran = atelier(
        "generate", "x", *_QUICK, "--seed", "5", "--guidance", "3", "--sampler", "ddim", "--exact", "--n", "2",
        "--negative-prompt", "y", "--model", "small-sdxl", "--priority", "interactive",
    )  # fmt: skip
    assert (ran.exit_code, ran.stdout, ran.stderr) == (0, "small-sdxl-5.png\nsmall-sdxl-6.png\n", "")
    asked = {
        "prompt": "x",
        "num_inference_steps": 2,
        "size": "64x32",
        "seed": 5,
        "guidance_scale": 3,
        "sampler": "ddim",
        "reproducibility": "exact",
        "n": 2,
        "negative_prompt": "y",
    }
    direct = httpx2.post(f"{server.address}/v1/images/generations", json=asked).json()
    for name, expected in zip(ran.stdout.split(), direct["data"], strict=True):
        assert (pixels_of(Path(name).read_bytes()) == pixels_of(expected["b64_json"])).all()
    [job] = server.jobs()
    assert (job["operation"], job["state"], job["priority"]) == ("generate", "succeeded", "interactive")
    assert [image["parameters"] for image in job["result"]["data"]] == [
        image["parameters"] for image in direct["data"]
    ]


def test_an_edit_keeps_what_its_mask_keeps(atelier: Atelier) -> None:
    mask = noise(64, 32).convert("L").point(lambda _: 0)
    mask.paste(255, (32, 0, 64, 32))
    Path("in.png").write_bytes(encoded(noise(64, 32)))
    Path("mask.png").write_bytes(encoded(mask))
    ran = atelier("edit", "in.png", "x", "--mask", "mask.png", "--strength", "1", "--steps", "2", "-o", "out.png")
    assert (ran.exit_code, ran.stdout) == (0, "out.png\n")
    before, after = (pixels_of(Path(name).read_bytes()) for name in ("in.png", "out.png"))
    assert (after[:, :32] == before[:, :32]).all()
    assert (after[:, 40:] != before[:, 40:]).any()


def test_strength_says_how_far_an_edit_departs(atelier: Atelier) -> None:
    Path("in.png").write_bytes(encoded(noise(64, 32)))
    for strength in ("0.5", "1"):
        atelier("edit", "in.png", "x", "--strength", strength, "--steps", "2", "--seed", "1", "-o", f"{strength}.png")
    near, far = (pixels_of(Path(f"{strength}.png").read_bytes()) for strength in ("0.5", "1"))
    assert (near != far).any()


def test_image_guidance_is_refused_by_a_model_that_does_not_edit(atelier: Atelier) -> None:
    Path("in.png").write_bytes(encoded(noise(64, 32)))
    ran = atelier("edit", "in.png", "x", "--image-guidance", "2")
    assert ran.exit_code == 1
    assert "image_guidance_scale: small-sdxl does not edit by instructions" in ran.stderr


def test_an_upscaled_image_is_named_after_the_image_and_its_size(atelier: Atelier) -> None:
    Path("cat.png").write_bytes(encoded(noise(32, 16)))
    ran = atelier("upscale", "cat.png", "--scale", "2", "--model", "tiny-x4", "--format", "webp")
    assert (ran.exit_code, ran.stdout) == (0, "cat-64x32.webp\n")
    assert pixels_of(Path("cat-64x32.webp").read_bytes()).shape == (32, 64, 3)


@pytest.mark.zoo
def test_loras_act_with_their_weights(
    zoo_server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = Atelier(zoo_server.address)(
        "generate", "a red star", "--steps", "1", "--lora", "tiny-neon:-0.5", "--lora", "tiny-pastel"
    )
    [job] = zoo_server.jobs()
    [made] = job["result"]["data"]
    assert ran.exit_code == 0
    loras = {lora["model"]: lora["weight"] for lora in made["parameters"]["loras"]}
    assert loras == {"tiny-neon": -0.5, "tiny-pastel": 1.0}


def test_files_are_not_overwritten(atelier: Atelier) -> None:
    asked = ("generate", "x", *_QUICK, "--seed", "5")
    assert atelier(*asked).stdout == "small-sdxl-5.png\n"
    first = Path("small-sdxl-5.png").read_bytes()
    assert atelier(*asked).stdout == "small-sdxl-5-2.png\n"
    assert Path("small-sdxl-5.png").read_bytes() == first
    Path("small-sdxl-5.png").write_bytes(b"old")
    assert atelier(*asked, "--force").stdout == "small-sdxl-5.png\n"
    assert Path("small-sdxl-5.png").read_bytes() != b"old"


def test_a_file_that_exists_is_refused_before_the_job_is_made(atelier: Atelier, server: RunningServer) -> None:
    Path("star.png").write_bytes(b"old")
    refused = atelier("generate", "x", "-o", "star.png")
    assert (refused.exit_code, refused.stdout, server.jobs()) == (2, "", [])
    assert "star.png exists; --force replaces it" in refused.stderr
    nowhere = atelier("generate", "x", "-o", "no/star.png")
    assert (nowhere.exit_code, server.jobs()) == (2, [])
    assert Path("star.png").read_bytes() == b"old"
    forced = atelier("generate", "x", *_QUICK, "--n", "2", "-o", "star.png", "--force")
    assert forced.stdout == "star.png\nstar-2.png\n"
    assert (pixels_of(Path("star.png").read_bytes()) != pixels_of(Path("star-2.png").read_bytes())).any()


def test_an_output_may_be_a_folder_or_name_the_format(atelier: Atelier) -> None:
    Path("made").mkdir()
    assert atelier("generate", "x", *_QUICK, "--seed", "5", "-o", "made").stdout == "made/small-sdxl-5.png\n"
    assert atelier("generate", "x", *_QUICK, "-o", "star.jpg").stdout == "star.jpg\n"
    assert Path("star.jpg").read_bytes().startswith(b"\xff\xd8")
    assert atelier("generate", "x", *_QUICK, "--seed", "5", "--format", "jpeg").stdout == "small-sdxl-5.jpg\n"


def test_a_detached_job_is_saved_later(atelier: Atelier, server: RunningServer) -> None:
    handed_in = atelier("generate", "x", *_QUICK, "--seed", "5", "--detach")
    job_id = handed_in.stdout.strip()
    assert [job["id"] for job in server.jobs()] == [job_id]
    assert list(Path().iterdir()) == []
    saved = atelier("jobs", "watch", job_id, "-o", ".")
    assert (saved.exit_code, saved.stdout) == (0, "small-sdxl-5.png\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "x", "--size", "7x7"], "size: "),
        (["generate", "x", "--model", "none"], "'none'"),
        (["jobs", "show", "job_0"], "There is no job 'job_0'"),
    ],
)
def test_the_servers_errors_are_printed(atelier: Atelier, arguments: list[str], words: str) -> None:
    ran = atelier(*arguments)
    assert (ran.exit_code, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
    assert words in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate"], "Missing argument"),
        (["generate", "x", "--sampler", "magic"], "euler_a"),
        (["generate", "x", "--lora", "neon:strong"], "'strong' is no number"),
        (["generate", "x", "--server", "127.0.0.1:8000"], "is no address"),
        (["generate", "x", "--detach", "-o", "star.png"], "--detach saves nothing"),
        (["edit", "none.png", "x"], "none.png"),
        (["jobs", "watch", "job_0", "-o", "no/star.png"], "there is no folder no"),
    ],
)
def test_wrong_usage_is_said_without_a_server(arguments: list[str], words: str) -> None:
    ran = Atelier("http://127.0.0.1:9")(*arguments)
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert words in ran.stderr


def test_a_failed_job_says_why(atelier: Atelier, server: RunningServer) -> None:
    server.stages.failures["decode_latents"] = ValueError("broken")
    ran = atelier("generate", "x", *_QUICK)
    [job] = server.jobs()
    assert (ran.exit_code, ran.stdout, ran.stderr) == (1, "", f"{job['error']['message']}\n")
