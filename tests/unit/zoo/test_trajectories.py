from __future__ import annotations

from pathlib import Path

import pytest
import torch

from zoo import trajectories
from zoo.report import load_pipeline
from zoo.sdxl import TextAndUNet
from zoo.trajectories import make_trajectories, trailing_sigmas


def test_a_student_takes_its_steps_where_trailing_timesteps_are() -> None:
    timesteps, sigmas = trailing_sigmas(4)
    assert timesteps.tolist() == [999, 749, 499, 249]
    assert sigmas[0].item() == pytest.approx(14.61, abs=0.01)
    assert sigmas[-1].item() == 0


def test_the_teacher_passes_through_every_state_of_the_student() -> None:
    _, few = trailing_sigmas(4)
    _, many = trailing_sigmas(16)
    torch.testing.assert_close(many[::4], few)


@pytest.mark.zoo
def test_trajectories_are_those_of_diffusers_and_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trajectories, "SIZES", {(64, 96): 2})
    pipeline = load_pipeline()
    teacher = TextAndUNet()
    teacher.text_encoder, teacher.text_encoder_2 = pipeline.text_encoder, pipeline.text_encoder_2
    teacher.unet = pipeline.unet
    file = tmp_path / "trajectories.safetensors"
    [drawn] = make_trajectories(teacher, 4, file)
    assert drawn.states.shape == (2, 5, 4, 12, 8)
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    theirs = pipeline(
        drawn.prompts,
        width=64,
        height=96,
        num_inference_steps=16,
        guidance_scale=5.0,
        latents=drawn.states[:, 0] / trailing_sigmas(16)[1][0],
        output_type="latent",
    ).images
    # Teachers are called in bfloat16.
    assert torch.linalg.vector_norm(drawn.states[:, -1] - theirs) <= 0.1 * torch.linalg.vector_norm(theirs)
    [read] = make_trajectories(teacher, 4, file)
    assert read.prompts == drawn.prompts
    assert torch.equal(read.states, drawn.states)
