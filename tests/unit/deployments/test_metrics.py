from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from deployments.metrics import merged

_TEXT = """# HELP atelier_denoiser_steps_total UNet steps.
# TYPE atelier_denoiser_steps_total counter
atelier_denoiser_steps_total{{replica="{replica}"}} {steps}
# HELP atelier_denoiser_active_requests Requests in the batch.
# TYPE atelier_denoiser_active_requests gauge
atelier_denoiser_active_requests{{replica="{replica}"}} 1.0
"""


def test_merged_texts_have_one_heading_and_the_series_of_all_replicas() -> None:
    text = merged([_TEXT.format(replica="a", steps=3.0), _TEXT.format(replica="b", steps=4.0)])
    assert text.count("# TYPE atelier_denoiser_steps_total counter") == 1
    series = {
        (sample.name, sample.labels["replica"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert series == {
        ("atelier_denoiser_steps_total", "a"): 3,
        ("atelier_denoiser_steps_total", "b"): 4,
        ("atelier_denoiser_active_requests", "a"): 1,
        ("atelier_denoiser_active_requests", "b"): 1,
    }
