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
    texts = [_TEXT.format(replica="a", steps=3.0), _TEXT.format(replica="b", steps=4.0)]
    text = merged(texts, is_complete=True)
    assert text.count("# TYPE atelier_denoiser_steps_total counter") == 1
    series = {
        (sample.name, sample.labels.get("replica")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert series == {
        ("atelier_metrics_complete", None): 1,
        ("atelier_denoiser_steps_total", "a"): 3,
        ("atelier_denoiser_steps_total", "b"): 4,
        ("atelier_denoiser_active_requests", "a"): 1,
        ("atelier_denoiser_active_requests", "b"): 1,
    }


def test_metrics_tell_whether_a_replica_is_missing() -> None:
    assert "\natelier_metrics_complete 0.0\n" in merged([], is_complete=False)
