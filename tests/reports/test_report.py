"""Laws of the report: right numbers, a page that stands alone and that a browser shows."""

import json
import re
import shutil
import subprocess
from dataclasses import replace

import keras
import numpy as np
import pytest

from keras_tensornet.compression import compress_model
from keras_tensornet.reports import compression_report
from keras_tensornet.reports.html import page
from tests.compression.test_compress import convnet, images

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def models():
    dense = convnet()
    return dense, compress_model(dense, rank=2), compress_model(dense, rank=1, format="tucker")


@pytest.fixture(scope="module")
def report(models):
    dense, small, other = models
    data = images(20), np.arange(20) % 4
    return compression_report(dense, small, data, also={"<tucker>": other}, repeats=1)


def test_numbers_are_those_of_the_models(report, models):
    dense, small, _ = models
    assert report.dense.params == dense.count_params()
    assert report.compressed.params == small.count_params()
    assert report.compression == dense.count_params() / small.count_params()
    by_path = {layer.path: layer for layer in report.layers}
    assert by_path["first"].format is None and by_path["first"].error == 0.0
    second = by_path["second"]
    assert second.params == (864, small.get_layer("second").network.num_params)
    merged, kernel = small.get_layer("second").kernel, dense.get_layer("second").kernel
    expected = np.linalg.norm(merged - kernel) / np.linalg.norm(kernel)
    assert second.error == pytest.approx(expected, rel=1e-5)
    (shown,) = by_path["first"].cuts
    values = np.linalg.svd(np.reshape(by_first(dense), (-1, 8)), compute_uv=False)
    np.testing.assert_allclose(shown.values, values / values[0], atol=1e-5)
    assert (shown.kept, shown.total) == (None, 8)
    assert 0 <= report.dense.scores["accuracy"] <= 1
    assert report.compressed.latency_ms > 0 and report.dense.file_bytes > 0
    assert report.compressed.unfrozen_ms > 0
    assert report.dense.unfrozen_ms == report.dense.latency_ms
    assert "in turns" in report.conditions
    # What runs once it is frozen: the chain of cores, or the dense operation if that is faster.
    plan = small.get_layer("second").plan_for(32, merged=True)
    assert second.flops[1] == plan.flops // 32
    # 8 x 9 positions, 3 x 3 x 3 patch entries, 8 filters, a multiply and an add
    assert by_path["first"].flops == (2 * 72 * 27 * 8,) * 2


def by_first(model):
    """The kernel of the layer that stays dense."""
    return np.asarray(model.get_layer("first").kernel)


def test_a_slower_model_is_called_slower(report):
    models = [
        replace(model, latency_ms=ms) for model, ms in zip(report.models, (1, 1.09, 1), strict=True)
    ]
    slower = replace(report, models=tuple(models))
    for text in (str(slower), page(slower)):
        words = re.sub("<[^>]*>", " ", text)
        assert re.search(r"1\.09x\s+slower", words) and "faster" not in words
    grown = replace(report, models=(report.models[1], report.models[0]))
    assert "more parameters" in str(grown) and "fewer parameters" not in str(grown)


def test_the_models_are_as_frozen_afterwards_as_before(models):
    dense, small, _ = models
    small.get_layer("second").freeze(4)
    try:
        compression_report(dense, small, repeats=1, batch_size=2)
        assert small.get_layer("second").frozen
    finally:
        small.get_layer("second").unfreeze()
    compression_report(dense, small, repeats=1, batch_size=2)
    assert not small.get_layer("second").frozen


def test_markdown_and_json_hold_every_layer(report):
    text = report.to_markdown()
    data = json.loads(report.to_json())
    assert len(data["layers"]) == len(report.layers)
    for layer in report.layers:
        assert f"| {layer.path} |" in text
    assert str(report) == text and "| compressed |" in text and "| <tucker> |" in text


def test_the_page_needs_no_network_and_escapes_names(report, tmp_path):
    path = tmp_path / "report.html"
    report.to_html(path)
    text = path.read_text()
    assert "<tucker>" not in text and "&lt;tucker&gt;" in text
    assert not re.search(r"(src|href)=|url\(|@import|<script", text)
    assert set(re.findall(r"https?://[^\"' ]*", text)) == {"http://www.w3.org/2000/svg"}
    charts = sum(len(layer.cuts) for layer in report.layers if layer.format)
    assert text.count("<svg") == 2 + charts > 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_a_browser_shows_the_page(report, tmp_path):
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if browser is None:
        pytest.skip("no Chromium is installed")
    path, picture = tmp_path / "report.html", tmp_path / "page.png"
    report.to_html(path)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'p'}"]
    shown = subprocess.run(
        [browser, *flags, "--dump-dom", path.as_uri()], capture_output=True, timeout=120, text=True
    )
    assert "fewer parameters" in shown.stdout and "polyline" in shown.stdout
    subprocess.run(
        [browser, *flags, f"--screenshot={picture}", path.as_uri()],
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert picture.stat().st_size > 10_000


def test_plot_writes_an_image(report, tmp_path):
    pytest.importorskip("matplotlib")
    report.plot(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_without_data_there_is_no_score_and_metrics_are_used_where_compiled(models):
    dense, small, _ = models
    report = compression_report(dense, small, repeats=0)
    assert report.dense.scores == {} and report.compressed.latency_ms is None
    assert report.score_name is None
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="elsewhere")])
    with pytest.raises(ValueError, match="must come from `dense`"):
        compression_report(dense, other)
    with pytest.raises(ValueError, match="class indices"):
        compression_report(dense, small, (images(4), np.zeros((4, 7))), repeats=0)
