"""What `amp: auto` becomes [G21], that it is recorded and kept, and that another precision is said."""
import dataclasses

import pytest
import torch
import yaml

from s21k.core.config import load_config
from s21k.core.distributed import World
from s21k.training import amp
from tests.toy import run, words, write_toy

CPU = World(0, 1, torch.device("cpu"))


@pytest.mark.parametrize("there, capability, limits, expected", [
    ({"amx_bf16": True}, "AVX512", {}, "bf16"), ({"avx512_bf16": True}, "AVX512", {}, "bf16"),
    ({"amx_bf16": False, "avx2": True}, "AVX2", {}, "off"),
    ({"avx512_f": True}, "AVX512", {}, "off"), ({"bf16": True, "sve": True}, "SVE256", {}, "off"),
    ({}, "DEFAULT", {}, "off"),
    ({"amx_bf16": True}, "AVX2", {}, "off"), ({"amx_bf16": True}, "AVX512", {"ONEDNN_MAX_CPU_ISA": "AVX2"}, "off"),
    ({"amx_bf16": True}, "AVX512", {"DNNL_MAX_CPU_ISA": "avx512_core"}, "off"),
    ({"amx_bf16": True}, "AVX512", {"ONEDNN_MAX_CPU_ISA": "avx512_core_bf16"}, "bf16"),
    ({"amx_bf16": True}, "AVX512", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, "bf16")])
def test_a_processor_gets_bf16_only_where_torch_would_use_its_instructions(monkeypatch, there, capability, limits,
                                                                           expected):
    """Emulated bf16 takes ten times as long as float32, and more."""
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in limits.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: there, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert amp.resolve_amp(load_config(["toy"]), CPU).amp == expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")                   # torch before it had them
    assert amp.resolve_amp(load_config(["toy"]), CPU).amp == "off"


@pytest.mark.parametrize("capability, expected",
                         [((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16"), ((12, 0), "bf16")])
def test_a_gpu_gets_bf16_from_compute_capability_eight_on(monkeypatch, capsys, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    assert amp.resolve_amp(load_config(["toy"]), World(0, 1, torch.device("cuda", 0))).amp == expected
    assert capsys.readouterr().out == f"amp: {expected} (compute capability {capability[0]}.{capability[1]})\n"


def test_what_was_asked_for_is_not_changed(monkeypatch):
    for asked in ("off", "bf16", "fp16"):
        cfg = load_config(["toy", f"amp={asked}"])
        assert amp.resolve_amp(cfg, CPU) == cfg


def test_the_precision_is_recorded_kept_and_said_where_it_changes(tmp_path, monkeypatch):
    """Stage I in bf16 by hand; continued with auto it stays so, with another one it is refused; stage II says that it
    runs in another."""
    root = write_toy(tmp_path)
    auto = [word for word in words(root, "stage1.epochs=1") if not word.startswith("amp=")]
    monkeypatch.setattr(amp, "_cpu_has_bf16", lambda: False)
    assert run("train_stage1.py", *auto, "amp=bf16", "stage1.epochs=0.5").returncode == 0
    found = torch.load(root / "run" / "stage1.pt", weights_only=True)["config"]["amp"]
    assert found == "bf16" and amp.resolve_amp(load_config(auto), CPU, root / "run" / "stage1.pt").amp == "bf16"
    done = run("train_stage1.py", *auto, "stage1.epochs=0.5")
    assert done.returncode == 0 and "amp: bf16 (as " in done.stdout and "continuing" in done.stdout, done.stderr
    done = run("train_stage1.py", *auto, "amp=off", "stage1.epochs=0.5")
    assert done.returncode == 2 and "amp (bf16 before, now off)" in done.stderr
    done = run("train_stage2.py", *auto)
    assert done.returncode == 0, done.stderr
    assert "amp: off (" in done.stdout and "was trained with amp=bf16, here it is amp=off" in done.stdout
    assert yaml.safe_load((root / "run" / "config.yaml").read_text())["amp"] == "off"
    done = run("evaluate.py", *auto, "amp=bf16")
    assert done.returncode == 0, done.stderr
    assert "stage2.pt was trained with amp=off, here it is amp=bf16" in done.stdout


def test_autocast_is_off_where_the_precision_is():
    for name, dtype in (("off", torch.float32), ("bf16", torch.bfloat16)):
        with amp.autocast(name, torch.device("cpu")):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert set(amp.DTYPES) == set(dataclasses.fields(load_config(["toy"]))[1].type.__args__) - {"auto"}
