from utils import free_memory as module


def test_free_memory_is_the_machines_or_the_containers(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(module, "_CGROUP", tmp_path)
    assert module.free_memory() is None
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:   5000 kB\nHugePages_Total: 0\n")
    assert module.free_memory() == 5000 * 1024
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert module.free_memory() == 5000 * 1024
    (tmp_path / "memory.max").write_text("4000000\n")
    assert module.free_memory() == 1_500_000
    (tmp_path / "meminfo").write_text("nonsense\n")
    assert module.free_memory() == 1_500_000
    for used, free in ((4_499_999, 1), (4_500_000, 0), (4_500_001, 0), (9_000_000, 0)):
        (tmp_path / "memory.current").write_text(f"{used}\n")
        assert module.free_memory() == free
    (tmp_path / "memory.stat").write_text("anon 1\n")
    assert module.free_memory() is None
