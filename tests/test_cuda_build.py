"""How setup.py finds CUDA: with toolkits and packages made of empty files."""

import types

import cuda_build
import pytest
from cuda_build import Unavailable

NVCC = """#!/bin/sh
case "$1" in
  --version) echo "Cuda compilation tools, release {version}, V{version}.88" ;;
  --dryrun) echo '#$ _SPACE_= ' >&2; echo '#$ TOP={home}/bin/..' >&2 ;;
esac
"""


def make_toolkit(home, version="13.0", headers=(), cublas=None):
    (home / "bin").mkdir(parents=True)
    nvcc = home / "bin" / "nvcc"
    nvcc.write_text(NVCC.format(version=version, home=home))
    nvcc.chmod(0o755)
    add_files(home / "include", ("cuda_runtime_api.h", *headers))
    if cublas:
        add_files(home / "lib64", (cublas,))
    return home


def add_files(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def make_torch(site, cuda="13.0", capabilities=()):
    add_files(site / "torch", ("__init__.py",))
    gpus = types.SimpleNamespace(
        is_available=lambda: bool(capabilities),
        device_count=lambda: len(capabilities),
        get_device_capability=lambda i: capabilities[i],
    )
    version = types.SimpleNamespace(cuda=cuda)
    return types.SimpleNamespace(
        __version__="2.11.0", __file__=str(site / "torch" / "__init__.py"), version=version, cuda=gpus
    )


@pytest.fixture
def toolkit(tmp_path):
    return make_toolkit(tmp_path / "cuda")


@pytest.fixture
def torch_with_packages(tmp_path):
    add_files(tmp_path / "site" / "nvidia" / "cu13" / "include", cuda_build.LIBRARY_HEADERS)
    add_files(tmp_path / "site" / "nvidia" / "cu13" / "lib", ("libcublas.so.13",))
    return make_torch(tmp_path / "site")


def test_what_the_toolkit_lacks_comes_from_torchs_packages(tmp_path, toolkit, torch_with_packages):
    found = cuda_build.choose({"CUDA_HOME": str(toolkit), "PATH": ""}, torch_with_packages)
    packages = tmp_path / "site" / "nvidia" / "cu13"
    assert found.nvcc == toolkit / "bin" / "nvcc"
    assert found.include_dirs == [toolkit / "include", packages / "include"]
    assert found.cublas == packages / "lib" / "libcublas.so.13"
    assert found.architectures == ["80-real", "86-real", "89-real", "90-real", "100-real", "120"]
    assert found.definitions()["LSTMFAST_CUDA_ARCHITECTURES"] == "80-real;86-real;89-real;90-real;100-real;120"


def test_a_whole_toolkit_needs_no_packages(tmp_path):
    home = make_toolkit(tmp_path / "cuda", "12.8", cuda_build.LIBRARY_HEADERS, "libcublas.so")
    found = cuda_build.choose({"CUDA_PATH": str(home)}, make_torch(tmp_path / "site", "12.6"))
    assert found.include_dirs == [home / "include"]
    assert found.cublas == home / "lib64" / "libcublas.so"


def test_packages_of_one_library_each(tmp_path):
    """As before CUDA 13."""
    home, site = make_toolkit(tmp_path / "cuda", "12.8"), tmp_path / "site"
    for name, headers in {
        "cublas": cuda_build.LIBRARY_HEADERS[:2],
        "cusparse": cuda_build.LIBRARY_HEADERS[2:3],
        "cusolver": cuda_build.LIBRARY_HEADERS[3:],
    }.items():
        add_files(site / "nvidia" / name / "include", headers)
    add_files(site / "nvidia" / "cublas" / "lib", ("libcublas.so.12",))
    found = cuda_build.choose({"CUDA_HOME": str(home)}, make_torch(site, "12.6"))
    assert [folder.parent.name for folder in found.include_dirs[1:]] == ["cublas", "cusparse", "cusolver"]
    assert found.cublas.name == "libcublas.so.12"


def test_nvcc_in_path_may_be_a_script(tmp_path, toolkit, torch_with_packages):
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "nvcc"
    script.write_text(f'#!/bin/sh\nexec {toolkit}/bin/nvcc "$@"\n')
    script.chmod(0o755)
    found = cuda_build.choose({"PATH": f"{tmp_path / 'bin'}:/bin"}, torch_with_packages)
    assert found.nvcc == toolkit / "bin" / "nvcc"


def impossible(tmp_path):
    home = make_toolkit(tmp_path / "whole", "13.0", cuda_build.LIBRARY_HEADERS, "libcublas.so.13")
    bare = make_toolkit(tmp_path / "bare", "13.0", cuda_build.LIBRARY_HEADERS)
    no_headers = make_toolkit(tmp_path / "no_headers")
    torch = make_torch(tmp_path / "site")
    return {
        "torch for the CPU": (home, make_torch(tmp_path / "cpu", None), "not a CUDA build"),
        "another CUDA": (home, make_torch(tmp_path / "old", "12.6"), "CUDA 12.6, but .* is of CUDA 13.0"),
        "no nvcc where CUDA_HOME says": (tmp_path, torch, "no bin/nvcc"),
        "no headers": (no_headers, torch, "cublas_v2.h is neither in"),
        "no cuBLAS": (bare, torch, "libcublas.so.13 is neither in"),
    }


@pytest.mark.parametrize(
    "what", ["torch for the CPU", "another CUDA", "no nvcc where CUDA_HOME says", "no headers", "no cuBLAS"]
)
def test_why_not(what, tmp_path, capsys):
    home, torch, message = impossible(tmp_path)[what]
    environment = {"CUDA_HOME": str(home)}
    with pytest.raises(Unavailable, match=message):
        cuda_build.choose(environment | {"LSTMFAST_CUDA": "1"}, torch)
    # Not asked for, it is left out; that torch has CUDA and lstmfast has not is worth a line.
    assert cuda_build.choose(environment, torch) is None
    said = capsys.readouterr().out
    assert bool(said) == (torch.version.cuda is not None)


def test_can_be_left_out(toolkit, torch_with_packages):
    for wish in ("0", "off", "OFF"):
        assert cuda_build.choose({"LSTMFAST_CUDA": wish, "CUDA_HOME": str(toolkit)}, torch_with_packages) is None


def test_wish_is_understood_or_refused(torch_with_packages):
    with pytest.raises(ValueError, match="must be 1, 0 or auto, got 'yes'"):
        cuda_build.choose({"LSTMFAST_CUDA": "yes"}, torch_with_packages)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9.0", ["90-real"]),
        ("9.0a", ["90a-real"]),
        ("8.0;8.6+PTX", ["80-real", "86"]),
        ("8.0 9.0, 10.0", ["80-real", "90-real", "100-real"]),
        ("12.0f+PTX;12.0f+PTX", ["120f"]),
    ],
)
def test_architectures(text, expected):
    assert cuda_build.architectures(text) == expected


@pytest.mark.parametrize(
    ("text", "message"), [("Hopper", "not a compute"), ("sm_90", "not a"), ("7.5", "8.0 or newer")]
)
def test_architectures_refused(text, message):
    with pytest.raises(ValueError, match=message):
        cuda_build.architectures(text)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [([], None), ([(9, 0)], "9.0"), ([(9, 0), (8, 0), (9, 0)], "8.0;9.0"), ([(7, 5)], None), ([(7, 5), (8, 9)], "8.9")],
)
def test_present_gpus(tmp_path, capabilities, expected):
    assert cuda_build.present_capabilities(make_torch(tmp_path, capabilities=capabilities)) == expected


def test_the_variable_goes_before_present_gpus(tmp_path, toolkit, torch_with_packages):
    torch_with_packages.cuda = make_torch(tmp_path, capabilities=[(8, 9)]).cuda
    environment = {"CUDA_HOME": str(toolkit)}
    assert cuda_build.choose(environment, torch_with_packages).architectures == ["89-real"]
    environment["TORCH_CUDA_ARCH_LIST"] = "9.0+PTX"
    assert cuda_build.choose(environment, torch_with_packages).architectures == ["90"]
