"""What `mixture.yaml` may say, and how it is told what it may not: in one line, with file, line and key."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from mvss.cli import program
from mvss.io.mixture import read_mixture, schema
from mvss.io.views import read_views
from mvss.problem.operators import Identity, Mask
from mvss.problem.shared_view import measured
from mvss.runtime.errors import MvssError

VIEW = "views:\n  both:\n    data: y.npy\n    sources: {a: identity}\n    noise: 0.1\n"


def with_line(line: str, instead: str) -> str:
    """The mixture above, with another line in place of the one that begins so."""
    lines = [line if old.strip().startswith(instead) else old for old in VIEW.splitlines()]
    return "\n".join(lines) + "\n"


def noise(text: str) -> str:
    return with_line(f"    noise: {text}", "noise")


def source(text: str, data: str = "y.npy") -> str:
    return with_line(f"    sources: {{a: {text}}}", "sources").replace("y.npy", data)


def signal(text: str, data: str = "y.npy") -> str:
    return source(text).replace("y.npy", f"{{signals: {data}}}", 1)


A = "views.both.sources.a"
BAD = {
    "empty": ("", 1, "", "holds nothing: it needs views"),
    "no mapping": ("- a\n", 1, "", "must be a group of keys, not a list"),
    "no view": ("views: {}\n", 1, "views", "must not be empty"),
    "two documents": (VIEW + "---\n" + VIEW, 6, "", "expected a single document"),
    "a tab": ("views:\n\tboth: 1\n", 2, "", "found character '\\t' that cannot start any token"),
    "a bracket": ("views: [1\n", 2, "", "expected ',' or ']'"),
    "unknown key above": (VIEW + "seed: 0\n", 6, "seed", "is no key that is known: allowed: views"),
    "unknown key": (VIEW + "    nois: 0.1\n", 6, "views.both.nois", "did you mean 'noise'?"),
    "key twice": (VIEW + "    noise: 0.2\n", 6, "views.both.noise", "is there twice, first in line 5"),
    "a key that is no text": ("views:\n  1: {}\n", 2, "views.1", "a key must be text: put it in quotes"),
    "a key that is yes": ("views:\n  yes: {}\n", 2, "views.yes", "a key must be text: put it in quotes"),
    "a name with a slash": ("views:\n  a/b: {}\n", 2, "views.a/b", "must be a name of letters"),
    "a name of two lines": ('views:\n  "a\\n": {}\n', 2, "views.'a\\n'", "must be a name of letters"),
    "a tag": (noise("!!python/object/apply:os.getcwd []"), 5, "views.both.noise", "is not read: write plain values"),
    "an alias": ("views: &v\n  both: *v\n", 2, "", "aliases are not read"),
    "nothing there": (with_line("    data:", "data"), 3, "views.both.data", "must be text or a group of keys, not nothing"),
    "no noise": (VIEW.replace("    noise: 0.1\n", ""), 2, "views.both", "needs noise"),
    "noise below zero": (noise("-0.1"), 5, "views.both.noise", "must be positive, not -0.1"),
    "noise without end": (noise(".inf"), 5, "views.both.noise", "must be a finite number, not .inf"),
    "noise as text": (noise("little"), 5, "views.both.noise", "must be a number or a group of keys, not 'little'"),
    "noise of another shape": (noise("{map: a.npy}"), 5, "views.both.noise", "a.npy has shape (4, 3), not (3,) or (6, 3)"),
    "noise of too many": (noise("{each: y.npy}"), 5, "views.both.noise", "not one number for each of 6 observations"),
    "noise in a file below zero": (noise("{each: minus.npy}"), 5, "views.both.noise", "must be positive and finite"),
    "no such file": (with_line("    data: x.npy", "data"), 3, "views.both.data", "there is no file"),
    "no such ending": (with_line("    data: x.txt", "data"), 3, "views.both.data", "there is no file"),
    "no such key in a file": (with_line("    data: z.npz:yy", "data"), 3, "views.both.data", "has no 'yy': did you mean 'y'?"),
    "a key is needed": (with_line("    data: z.npz", "data"), 3, "views.both.data", "write z.npz:KEY, with one of y, z"),
    "a file of objects": (with_line("    data: objects.npy", "data"), 3, "views.both.data", "cannot read"),
    "a file that is damaged": (with_line("    data: half.npy", "data"), 3, "views.both.data", "cannot read"),
    "data with NaN": (with_line("    data: nan.npy", "data"), 3, "views.both.data", "holds NaN"),
    "data with NaN, first": (with_line("    data: nan.npy", "data"), 3, "views.both.data", "write missing: nan in the view"),
    "missing of another kind": (VIEW + "    missing: -99\n", 6, "views.both.missing", "-99 is not known: allowed: nan"),
    "missing as NaN": (VIEW + "    missing: .nan\n", 6, "views.both.missing", "must be a finite number, not .nan"),
    "missing and infinite": (
        VIEW.replace("y.npy", "inf.npy") + "    missing: nan\n", 3, "views.both.data", "holds an infinite value at (2, 1)",
    ),
    "all missing": (VIEW.replace("y.npy", "gone.npy") + "    missing: nan\n", 3, "views.both.data", "observation 4, counted"),
    "no noise where measured": (
        with_line("    noise: {map: holes.npy}", "noise").replace("y.npy", "nan.npy") + "    missing: nan\n", 5,
        "views.both.noise", "standard deviation at (5, 0) is 0",
    ),
    "data of one axis": (with_line("    data: minus.npy", "data"), 3, "views.both.data", "must be (N, numbers)"),
    "data of no numbers": (with_line("    data: none.npy", "data"), 3, "views.both.data", "must be (N, numbers)"),
    "no source": (with_line("    sources: {}", "sources"), 4, "views.both.sources", "must not be empty"),
    "unknown operator": (source("identiti"), 4, A, "did you mean 'identity'?"),
    "unknown operator with a value": (source("{scal: 2}"), 4, f"{A}.scal", "did you mean 'scale'?"),
    "scale as text": (source("{scale: much}"), 4, f"{A}.scale", "must be a number, not 'much'"),
    "scale of zero": (source("{scale: 0}"), 2, "views.both", "the operator of a is zero"),
    "a matrix of zeros": (source("{matrix: dark.npy}"), 2, "views.both", "the operator of a is zero"),
    "a psf of zeros": (source("{psf: dark.npy}", "image.npy"), 2, "views.both", "the operator of a is zero"),
    "average of half": (source("{average: 0.5}"), 4, f"{A}.average", "must be a whole number, not 0.5"),
    "average of everything": (source("{average: 99999999}", "image.npy"), 4, A, "fewer observations"),
    "average of vectors": (source("{average: 2}"), 4, f"{A}.average", "average is of images"),
    "two operators at once": (source("{scale: 1, matrix: a.npy}"), 4, A, "are two operators: write product"),
    "a mode of nothing": (source("{mode: same}"), 4, A, "mode is of a psf or a response"),
    "a mode of something else": (source("{scale: 2, mode: same}"), 4, A, "mode is of a psf or a response"),
    "a psf of signals": (signal("{psf: k.npy}"), 4, f"{A}.psf", "psf is of images, and here are (1, 3)"),
    "a response of vectors": (source("{response: row.npy}"), 4, f"{A}.response", "response is of signals"),
    "an even response": (signal("{response: sigma.npy}"), 4, f"{A}.response", "with odd l"),
    "a response of two axes": (signal("{response: k.npy}"), 4, f"{A}.response", "k.npy must be (length,), not (3, 3)"),
    "a response that is too long": (signal("{response: long.npy}"), 4, f"{A}.response", "is larger than (1, 3); crop it"),
    "signals of one axis": (signal("identity", "minus.npy"), 3, "views.both.data", "signals must be (N, length)"),
    "signals of four axes": (signal("identity", "deep.npy"), 3, "views.both.data", "signals must be (N, length)"),
    "data of a kind": (with_line("    data: {signal: y.npy}", "data"), 3, "views.both.data.signal", "did you mean 'signals'"),
    "no kind of data": (with_line("    data: {}", "data"), 3, "views.both.data", "must not be empty"),
    "data as a list": (with_line("    data: [y.npy]", "data"), 3, "views.both.data", "or a group of keys, not a list"),
    "a sum of one": (source("{sum: [identity]}"), 4, f"{A}.sum", "needs at least 2 operators"),
    "a sum of different shapes": (source("{sum: [identity, {matrix: wider.npy}]}"), 4, f"{A}.sum", "sources of one shape"),
    "deep in a sum": (source("{sum: [identity, {mask: no.npy}]}"), 4, f"{A}.sum[1].mask", "there is no file"),
    "two in a sum": (source("{sum: [identity, {scale: 1, mask: y.npy}]}"), 4, f"{A}.sum[1]", "are two operators"),
    "another mode": (source("{psf: k.npy, mode: sam}"), 4, f"{A}.mode", "did you mean 'same'?"),
    "an even psf": (source("{psf: a.npy}", "image.npy"), 4, f"{A}.psf", "with odd h and w"),
    "a mask of numbers": (source("{mask: y.npy}"), 4, f"{A}.mask", "must hold 1 (measured) and 0 alone"),
    "a matrix that does not fit": (source("{matrix: wide.npy}"), 4, f"{A}.matrix", "gives 2 numbers, where 3 are wanted"),
    "matrices of others": (source("{matrix: four.npy}"), 4, f"{A}.matrix", "holds 4 matrices for 6 observations"),
    "a product of one": (source("{product: [identity]}"), 4, f"{A}.product", "needs at least 2 operators"),
    "deep in a product": (source("{product: [identity, {scale: x}]}"), 4, f"{A}.product[1].scale", "must be a number"),
    "a look through a row": (
        source("{stack: [{matrix: sigma.npy}, {matrix: wide.npy}]}"), 4, f"{A}.stack[0].matrix", "must be (M, D) or (N, M, D)",
    ),
    "looks that share nothing": (source("{stack: [identity, identity]}"), 4, f"{A}.stack", "2 looks cannot share"),
    "a mask of one source alone": (
        with_line("    sources: {a: {mask: each.npy}, b: identity}", "sources").replace("y.npy", "image.npy"), 2, "views.both",
        "preset images needs one operator and one noise for all observations of a view",
    ),
    "shapes of a source differ": (
        VIEW + VIEW.partition("\n")[2].replace("both", "other").replace("y.npy", "image.npy"), 1, "views",
        "a has shape (1, 8, 8) here, and (3,) in another view",
    ),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    numbers = np.random.default_rng(0)
    y = numbers.normal(size=(6, 3))
    arrays = {"y": y, "a": np.ones((4, 3)), "minus": -np.ones(6), "nan": np.where(y > 0, y, np.nan), "k": np.ones((3, 3)) / 9}
    arrays |= {"wide": np.ones((2, 4)), "four": np.ones((4, 3, 3)), "image": numbers.normal(size=(6, 8, 8))}
    arrays |= {"sigma": np.full(6, 0.2), "sigmas": np.full((8, 8), 0.3), "mask": np.arange(64).reshape(8, 8) > 3}
    arrays |= {"row": np.ones(3), "long": np.ones(5), "deep": np.ones((6, 2, 3, 4)), "wider": np.ones((3, 4))}
    arrays |= {"none": np.ones((6, 0)), "dark": np.zeros((3, 3))}
    place = np.arange(18).reshape(6, 3)
    arrays |= {"inf": np.where(place == 7, np.inf, y), "gone": np.where(place // 3 == 4, np.nan, y)}
    arrays["nan"] = np.where(place % 3 == 2, np.nan, y)
    arrays["holes"] = np.where(place % 3 == 2, np.nan, np.where(place == 15, 0.0, 0.1))
    arrays |= {"each": numbers.random((6, 8, 8)) > 0.2}
    for name, values in arrays.items():
        np.save(tmp_path / f"{name}.npy", values)
    np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    (tmp_path / "half.npy").write_bytes((tmp_path / "y.npy").read_bytes()[:-20])
    np.savez(tmp_path / "z.npz", y=y, z=y)
    return tmp_path


@pytest.mark.parametrize("case", list(BAD))
def test_what_is_wrong_is_told_in_one_line_with_file_line_and_key(folder: Path, case: str) -> None:
    text, line, key, says = BAD[case]
    path = folder / "mixture.yaml"
    path.write_text(text)
    done = CliRunner().invoke(program, ["check", str(path)])
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    (told,) = done.stderr.splitlines()
    assert told.startswith(f"mvss: {path}:{line}: {key}: " if key else f"mvss: {path}:{line}: ")
    assert says in told


def test_a_file_that_is_no_text_is_told_with_its_line(folder: Path) -> None:
    path = folder / "mixture.yaml"
    path.write_bytes(b"views:\n  a\xff: 1\n")
    with pytest.raises(MvssError, match=r"mixture.yaml:2: no text in UTF-8"):
        read_mixture(path)
    with pytest.raises(MvssError, match=r"cannot read .*nowhere.yaml"):
        read_mixture(folder / "nowhere.yaml")
    path.write_text("[" * 5000)
    with pytest.raises(MvssError, match=r"mixture.yaml:1: nested too deeply"):
        read_mixture(path)


def test_every_operator_and_noise_is_what_its_name_says(folder: Path) -> None:
    path = folder / "mixture.yaml"
    path.write_text("""\
views:
  sky:
    data: image.npy
    sources:
      sky: {product: [{mask: mask.npy}, {scale: -2e0}]}
      spot: {psf: k.npy}
      fine: {average: 2}
      wide: {psf: k.npy, mode: valid}
    noise: {map: sigmas.npy}
  twice:
    data: z.npz:y
    sources: {line: {stack: [{matrix: row.npy}, {product: [{scale: 2}, {matrix: wide.npy}]}]}}
    noise: {each: sigma.npy}
""")
    np.save(folder / "row.npy", np.arange(4.0)[None])
    sky, twice = read_views(read_mixture(path))
    assert sky.y.shape == (6, 1, 8, 8)
    assert sky.shapes == {"sky": (1, 8, 8), "spot": (1, 8, 8), "fine": (1, 16, 16), "wide": (1, 10, 10)}
    x = torch.ones(6, 1, 8, 8)
    masked = sky.operators["sky"].forward(x)
    assert float(masked.min()) == -2.0 and int((masked == 0).sum()) == 6 * 4
    assert float(sky.noise.variance(sky.y).mean()) == pytest.approx(0.09)
    assert twice.operators["line"].forward(torch.ones(6, 4)).tolist()[0] == [6.0, 8.0, 8.0]
    assert twice.noise.variance(twice.y).shape == (6, 3)


def test_one_number_is_the_noise_of_one_observation(folder: Path) -> None:
    """Also where its array has no axes."""
    np.save(folder / "one.npy", np.ones((1, 3)))
    np.save(folder / "sigma.npy", np.array(0.2))
    path = folder / "mixture.yaml"
    path.write_text(noise("{each: sigma.npy}").replace("y.npy", "one.npy"))
    (view,) = read_views(read_mixture(path))
    assert view.noise.variance(view.y).sqrt().tolist() == [[0.2] * 3]


MISSING = VIEW.replace("y.npy", "nan.npy") + "    missing: nan\n"


def test_numbers_that_are_nan_are_masked_in_every_source(folder: Path) -> None:
    """Also where the noise is none, and where operators have a mask of their own."""
    y = np.load(folder / "y.npy")
    seen = np.random.default_rng(1).random((6, 3)) > 0.3
    seen[:, 0] = True
    np.save(folder / "nan.npy", np.where(seen, y, np.nan))
    for bad in (np.nan, np.inf, 0.0, -1.0):
        np.save(folder / "sigma.npy", np.where(seen, 0.2, bad))
        np.save(folder / "half.npy", np.array([True, True, False]))
        sources = "{a: identity, b: {matrix: dark.npy}, c: {mask: half.npy}}"
        np.save(folder / "dark.npy", np.ones((3, 3)))
        text = with_line(f"    sources: {sources}", "sources").replace("y.npy", "nan.npy") + "    missing: nan\n"
        (folder / "mixture.yaml").write_text(text.replace("0.1", "{map: sigma.npy}"))
        (view,) = read_views(read_mixture(folder / "mixture.yaml"))
        x, known = torch.ones(6, 3, dtype=torch.float64), torch.from_numpy(seen)
        assert torch.equal(view.y, torch.from_numpy(np.where(seen, y, 0.0)))
        assert torch.equal(measured(view).expand(6, 3), known)
        assert torch.equal(view.operators["a"].forward(x), x * known)
        assert torch.equal(view.operators["b"].forward(x), 3 * x * known)
        assert torch.equal(view.operators["c"].forward(x), x * known * torch.tensor([1.0, 1.0, 0.0]))
        assert bool((view.noise.variance(view.y)[known] == 0.2**2).all())


@pytest.mark.parametrize("there", [True, False])
def test_what_is_missing_in_all_observations_has_a_noise_of_all(there: bool, folder: Path) -> None:
    """And one mask for all of them, which networks for whole views take."""
    seen = np.arange(3) >= there
    np.save(folder / "nan.npy", np.where(seen, np.load(folder / "y.npy"), np.nan))
    np.save(folder / "sigma.npy", np.where(seen, 0.2, 0.0))
    (folder / "mixture.yaml").write_text(MISSING.replace("0.1", "{map: sigma.npy}"))
    (view,) = read_views(read_mixture(folder / "mixture.yaml"))
    assert view.noise.is_shared and view.operators["a"].count is None
    assert isinstance(view.operators["a"], Mask if there else Identity)
    assert measured(view).tolist() == [seen.tolist()]
    found = json.loads(CliRunner().invoke(program, ["check", str(folder / "mixture.yaml"), "--json"]).stdout)["views"]["both"]
    assert found["measured"] == pytest.approx(seen.mean()) and found["noise"] == [0.2, 0.2]


PRODUCT, WEIGHTS = "{{product: [{}, {{matrix: {}.npy}}]}}", "[identity, {scale: 2}]"
LOOKS = {
    "behind masks": [PRODUCT.format("{mask: five.npy}", "tall"), PRODUCT.format("{mask: three.npy}", "low")],
    "behind products": [PRODUCT.format(f"{{product: {WEIGHTS}}}", rows) for rows in ("tall", "low")],
    "behind sums": [PRODUCT.format(f"{{sum: {WEIGHTS}}}", rows) for rows in ("tall", "low")],
    "of looks": [f"{{stack: [{{matrix: row.npy}}, {{matrix: {rows}.npy}}]}}" for rows in ("two", "four")],
    "of looks behind matrices": [PRODUCT.format(f"{{stack: {WEIGHTS}}}", rows) for rows in ("row", "low")],
}


@pytest.mark.parametrize("name", LOOKS)
def test_looks_are_as_long_as_their_matrices(folder: Path, name: str) -> None:
    """Whatever stands before these and gives what it takes."""
    for file, rows in {"row": 1, "two": 2, "low": 3, "four": 4, "tall": 5}.items():
        np.save(folder / f"{file}.npy", np.ones((rows, 2)))
    for file, rows in {"three": 3, "five": 5}.items():
        np.save(folder / f"{file}.npy", np.arange(rows) > 0)
    np.save(folder / "y.npy", np.zeros((6, 8)))
    path = folder / "mixture.yaml"
    path.write_text(source(f"{{stack: [{', '.join(LOOKS[name])}]}}"))
    (view,) = read_views(read_mixture(path))
    assert view.shapes == {"a": (2,)} and view.operators["a"].observation_shape == (8,)


def test_signals_have_channels_and_operators_of_their_own(folder: Path) -> None:
    path = folder / "mixture.yaml"
    path.write_text("""\
views:
  pair:
    data: {signals: image.npy}
    sources: {long: {product: [{mask: each.npy}, {response: row.npy, mode: valid}]}, fine: {average: 2}}
    noise: {map: sigmas.npy}
  one:
    data: {signals: y.npy}
    sources: {echo: {sum: [identity, {product: [{scale: 0.5}, {response: shift.csv}]}]}}
    noise: 0.1
""")
    (folder / "shift.csv").write_text("0\n0\n1\n")
    pair, one = read_views(read_mixture(path))
    assert pair.y.shape == (6, 8, 8) and pair.shapes == {"long": (8, 10), "fine": (8, 16)}
    assert one.y.shape == (6, 1, 3) and one.shapes == {"echo": (1, 3)}
    x = torch.arange(1.0, 4.0).expand(6, 1, 3)
    assert one.operators["echo"].forward(x)[0, 0].tolist() == [1.0, 2.5, 4.0]
    assert float(pair.operators["long"].forward(torch.ones(6, 8, 10)).max()) == 3.0
    found = CliRunner().invoke(program, ["check", str(path), "--json"])
    assert found.exit_code == 2 and "preset signals needs one operator" in found.stderr  # a mask of one source alone
    path.write_text("views:\n  one: {data: {signals: image.npy}, sources: {a: {response: row.npy}}, noise: 0.1}\n")
    said = json.loads(CliRunner().invoke(program, ["check", str(path), "--json"]).stdout)
    assert said["preset"] == "signals" and said["views"]["one"]["sources"]["a"]["operator"] == "response"


def test_the_schema_is_valid_and_closed() -> None:
    Draft202012Validator.check_schema(schema())
    groups = [schema(), *(schema()["$defs"][name] for name in ("view", "data", "noise", "named"))]
    assert all(group["additionalProperties"] is False for group in groups)
