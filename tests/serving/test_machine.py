"""`tune`: what it fits, keeps and reads; nothing is used or written unless it was asked for."""

import json
import warnings
from dataclasses import asdict, replace

import numpy as np
import pytest

from keras_tensornet import cli, layers
from keras_tensornet.contraction import Machine, candidate_plans, constants, make_plan
from keras_tensornet.serving import machine as tuning
from keras_tensornet.serving.machine import Sample, fit, regrets, tune

# Far from what is shipped, each in its own direction.
TRUTH = Machine(matmul_flops=40e9, conv_flops=900e9, bandwidth=5e9, call=3e-6)


def synthetic(truth, noise=0.0):
    """Samples as a machine of known rates would give them, of real layers and their plans."""
    rng, found = np.random.default_rng(0), []
    for format, units, rank, shape in tuning.LAYERS:
        conv = len(shape) == 4
        kind = layers.FactorizedConv2D if conv else layers.FactorizedDense
        layer = kind(*((units, 3) if conv else (units,)), rank=rank, format=format)
        layer.build(shape)
        workload = layer.plan_for(shape[0], merged=True).workload
        plans = candidate_plans(layer.network, workload)
        chains = {plan.describe() for plan in plans[:3]}
        chains |= {plan.describe() for plan in plans if plan.implementation == "reconstructed"}
        seconds = {
            chain: make_plan(layer.network, workload, chain, truth).seconds
            * float(np.exp(noise * rng.normal()))
            for chain in sorted(chains)
        }
        found.append(Sample(format, layer.network, workload, seconds))
    return found


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of its own, and nothing known of it."""
    monkeypatch.setenv("KERAS_TENSORNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "_known", {None: Machine()})
    return tmp_path / "cache"


def test_known_rates_are_found_again():
    samples = synthetic(TRUTH)
    found = fit(samples)
    for name in constants.FITTED:
        assert getattr(found, name) == pytest.approx(getattr(TRUTH, name), rel=1e-3), name
    assert regrets(samples, found)[0] <= regrets(samples, Machine())[0]


def test_a_busy_moment_moves_rates_little():
    """One plan of all was held up tenfold, the others vary by 5 %."""
    samples = synthetic(TRUTH, noise=0.05)
    chain = next(iter(samples[3].seconds))
    samples[3].seconds[chain] *= 10
    found = fit(samples)
    for name in constants.FITTED:
        # four rates from some forty plans of 5 % noise
        assert getattr(found, name) == pytest.approx(getattr(TRUTH, name), rel=0.5), name


def test_what_no_sample_tells_of_stays_as_shipped():
    dense = [one for one in synthetic(TRUTH) if not one.workload.spatial_in]
    assert fit(dense).conv_flops == Machine().conv_flops


def test_rates_are_kept_and_read_by_the_next_process(cache):
    path = constants.constants_file()
    assert constants.machine() == Machine() and not cache.exists()  # asking writes nothing
    constants.keep(TRUTH, path, "by hand")
    assert constants.machine() == TRUTH
    constants._known.clear()  # another process
    assert constants.machine() == TRUTH
    layer = layers.TRDense(256, rank=4)
    layer.build((32, 256))
    assert (
        layer.plan.seconds == make_plan(layer.network, layer.plan.workload, "auto", TRUTH).seconds
    )
    constants.forget(path)
    assert constants.machine() == Machine() and not path.exists()
    constants._known.clear()
    assert constants.machine() == Machine()


@pytest.mark.parametrize(
    "content, words",
    [
        ("{", "Expecting property name"),
        ("[]", "version None, not 1"),
        (json.dumps({"version": 0, "rates": asdict(TRUTH)}), "version 0, not 1"),
        (json.dumps({"version": 1, "rates": {"call": 1.0}}), "its rates are not"),
        (json.dumps({"version": 1, "rates": asdict(TRUTH) | {"call": -1.0}}), "no positive number"),
        (json.dumps({"version": 1, "rates": asdict(TRUTH) | {"call": "x"}}), "no positive number"),
    ],
)
def test_a_file_that_cannot_be_used_says_so_once(content, words, cache):
    cache.mkdir()
    path = constants.constants_file()
    path.write_text(content)
    with pytest.warns(UserWarning, match="keras-tensornet tune") as caught:
        assert constants.machine() == Machine()
    assert words in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert constants.machine() == Machine()
    assert path.read_text() == content


def test_folders_are_the_platforms(monkeypatch, tmp_path):
    monkeypatch.delenv("KERAS_TENSORNET_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for platform, place in (
        ("linux", ".cache"),
        ("darwin", "Library/Caches"),
        ("win32", "AppData/Local"),
    ):
        monkeypatch.setattr(constants.sys, "platform", platform)
        monkeypatch.delenv("LOCALAPPDATA", raising=False)
        assert constants.cache_folder() == tmp_path / place / "keras_tensornet"
    monkeypatch.setattr(constants.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert constants.cache_folder() == tmp_path / "xdg" / "keras_tensornet"
    monkeypatch.setenv("KERAS_TENSORNET_CACHE", "")
    assert constants.cache_folder() is None and constants.machine() == Machine()


def faked(monkeypatch, samples):
    waiting = iter(samples)
    monkeypatch.setattr(tuning, "sample", lambda *args: next(waiting))


def test_what_chooses_no_better_is_not_kept(cache, monkeypatch):
    faked(monkeypatch, synthetic(Machine()))  # a machine like the shipped one
    found = tune()
    assert found.path is None and "not kept" in str(found)
    assert not cache.exists() and constants.machine() == Machine()


def test_the_command_tunes_and_forgets(cache, monkeypatch, capsys):
    samples = synthetic(TRUTH)
    assert regrets(samples, TRUTH) < regrets(samples, Machine()), "the law needs another machine"
    faked(monkeypatch, samples)
    assert cli.main(["tune", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["path"] == str(constants.constants_file())
    assert report["tuned"] <= report["shipped"]
    assert constants.machine().call == pytest.approx(TRUTH.call, rel=1e-3)
    assert cli.main(["tune", "--forget"]) == 0 and constants.machine() == Machine()
    capsys.readouterr()
    assert cli.main(["tune", "--forget"]) == 2
    assert "no tuned rates" in capsys.readouterr().err
    monkeypatch.setenv("KERAS_TENSORNET_CACHE", "")
    assert cli.main(["tune"]) == 2 and "Set it to a folder" in capsys.readouterr().err


def test_a_layer_is_measured(monkeypatch):
    one = tuning.sample("tr", 8, 2, (2, 8))
    assert len(one.seconds) >= 2 and all(taken > 0 for taken in one.seconds.values())
    assert one.regret(Machine()) >= 1.0
    assert one.regret(replace(Machine(), call=1.0)) >= 1.0
