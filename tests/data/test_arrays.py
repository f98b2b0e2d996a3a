"""Arrays, lists of tensors and image folders."""

import io

import cloudpickle
import numpy as np
import pytest
import torch

from neuronwise.data import batches, corpus
from neuronwise.errors import DataError, EmptyCorpusError, InvalidArgumentError, UnsafeFileError


def test_rows_of_an_array_with_labels():
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    read = corpus(values, labels={"kind": ["b", "a", "b", "b"], "n": np.array([5, -1, 7, 5])})
    assert read.labels == {"kind": ("a", "b"), "n": ("5", "7")}
    (batch,) = batches(read.examples(1, 3))
    assert torch.equal(batch.inputs, torch.from_numpy(values[1:3])) and batch.mask is None
    assert batch.labels["kind"].tolist() == [0, 1] and batch.labels["n"].tolist() == [-1, 1]
    assert batch.indices.tolist() == [1, 2] and batch.lengths.tolist() == [1, 1]
    assert read.examples(4, 6) == []
    assert corpus(values).fingerprint != read.fingerprint
    assert corpus(torch.from_numpy(values)).fingerprint == corpus(values).fingerprint
    assert corpus(values + 1).fingerprint != corpus(values).fingerprint


def test_token_ids_have_a_length_and_strings(tokenizer):
    read = corpus([torch.tensor([1, 403, 407]), torch.tensor([403])], tokenizer=tokenizer)
    assert [example.length for example in read] == [3, 1]
    assert read.examples(0, 1)[0].tokens == ("<s>", " Once", " upon")
    (batch,) = batches(read.examples(0, 2), pad=read.pad)
    assert batch.mask.sum() == 4
    named = corpus({"input_ids": np.array([[1, 403], [1, 407]])})
    assert named.examples(0, 1)[0].length == 2


def test_named_inputs_and_transform():
    read = corpus({"x": torch.ones(3, 2), "y": torch.zeros(3)}, transform=_double)
    (batch,) = batches(read.examples(0, 3))
    assert set(batch.inputs) == {"x", "y"} and (batch.inputs["x"] == 2).all()
    rows = corpus([{"x": [1.0, 2.0]}, {"x": [3.0, 4.0]}])
    assert rows.examples(1, 2)[0].inputs["x"].tolist() == [3.0, 4.0]


def _double(inputs):
    return {name: 2 * tensor for name, tensor in inputs.items()}


def test_streams_of_tensors():
    read = corpus(torch.full((2,), float(n)) for n in range(600))
    assert read.kind == "array"
    assert read.examples(300, 302)[1].inputs.tolist() == [301.0, 301.0]
    assert len(read.examples(302, 9999)) == 298


def test_numpy_files_are_left_on_disk(tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 2, 3))
    np.save(tmp_path / "x.npy", values)
    np.savez(tmp_path / "x.npz", x=values, y=np.array([0, 1, 0, 1, 1]))
    plain = corpus(tmp_path / "x.npy")
    packed = corpus(tmp_path / "x.npz", label_fields=["y"])
    assert packed.labels == {"y": ("0", "1")}
    for read in (plain, packed):
        sent = cloudpickle.dumps(read)
        assert len(sent) < 20_000
        copy = cloudpickle.loads(sent)
        for example in copy:
            assert np.array_equal(example.inputs.numpy(), values[example.index])
        assert copy.fingerprint == read.fingerprint
    with pytest.raises(DataError, match=r"no array 'z'.*x"):
        corpus(tmp_path / "x.npz", label_fields=["z"])
    both = corpus(tmp_path / "x.npz")
    assert set(both.examples(0, 1)[0].inputs) == {"x", "y"}


def test_numpy_files_with_pickles_are_refused(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", x=np.array([{"a": 1}], dtype=object))
    for name in ("objects.npy", "objects.npz"):
        with pytest.raises(UnsafeFileError, match="pickle"):
            corpus(tmp_path / name)
    (tmp_path / "noise.npy").write_bytes(b"noise")
    (tmp_path / "noise.npz").write_bytes(b"PK\x03\x04noise")
    (tmp_path / "plain.npz").write_bytes(b"noise")
    for name in ("noise.npy", "noise.npz", "plain.npz"):
        with pytest.raises(DataError):
            corpus(tmp_path / name)


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(EmptyCorpusError):
        corpus(np.zeros((0, 3)))
    with pytest.raises(DataError, match="without axes"):
        corpus(np.array(3.0))
    with pytest.raises(DataError, match="different numbers"):
        corpus(np.zeros((2, 3)), labels=[1])
    with pytest.raises(DataError, match="must be classes"):
        corpus(np.zeros((2, 3)), labels=[0.5, 1.5])
    with pytest.raises(DataError, match="Cannot make a tensor"):
        corpus(np.array(["a", "b"])).examples(0, 1)
    with pytest.raises(DataError, match="no tokens"):
        corpus([torch.zeros(0, dtype=torch.int64)]).examples(0, 1)
    with pytest.raises(InvalidArgumentError, match="takes no max_length"):
        corpus(np.zeros((2, 3)), max_length=3)


@pytest.fixture
def pictures(tmp_path):
    image = pytest.importorskip("PIL.Image")
    files = (
        ("red/a.png", (255, 0, 0), (8, 6)),
        ("red/b.jpg", (255, 0, 0), (8, 6)),
        ("blue/c.png", (0, 0, 255), (300, 200)),
    )
    for name, colour, size in files:
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.new("RGB", size, colour).save(path)
    (tmp_path / "pictures" / "readme.txt").write_text("not an image")
    return tmp_path / "pictures"


def test_image_folder(pictures):
    read = corpus(pictures)
    assert (read.kind, len(read)) == ("image", 3)
    assert read.labels == {"class": ("blue", "red")}
    blue, red, _ = read
    assert blue.inputs.shape == (3, 200, 300) and red.inputs.shape == (3, 6, 8)
    assert blue.inputs[:, 0, 0].tolist() == [0.0, 0.0, 1.0]
    assert [int(example.labels["class"]) for example in read] == [0, 1, 1]
    with pytest.raises(DataError, match="size="):
        list(batches(read.examples(0, 3)))
    image = pytest.importorskip("PIL.Image")
    small = image.open(io.BytesIO(read.image(0)))
    assert small.format == "PNG" and max(small.size) <= 96 and small.getpixel((0, 0)) == (0, 0, 255)


def test_image_options(pictures):
    read = corpus(pictures, size=(4, 5), mean=0.5, std=(0.5, 0.5, 0.25))
    (batch,) = batches(read.examples(0, 3))
    assert batch.inputs.shape == (3, 3, 4, 5) and batch.mask is None
    assert batch.inputs[0, :, 0, 0].tolist() == [-1.0, -1.0, 2.0]
    assert read.fingerprint != corpus(pictures).fingerprint
    copy = cloudpickle.loads(cloudpickle.dumps(read))
    assert torch.equal(copy.examples(0, 1)[0].inputs, batch.inputs[0])
    own = corpus(pictures, transform=lambda image: torch.tensor(image.size))
    assert own.examples(0, 1)[0].inputs.tolist() == [300, 200]
    for options in ({"size": 3, "transform": _double}, {"size": 0}, {"std": 0.0}, {"mean": (1, 2)}):
        with pytest.raises(InvalidArgumentError):
            corpus(pictures, **options)


def test_a_broken_image_is_named(pictures):
    (pictures / "blue" / "b.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"b\.png"):
        corpus(pictures).examples(0, 3)


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (3, 4, 6)])
@pytest.mark.parametrize("kind", ["uint8", "unit", "wide"])
def test_arrays_of_the_form_of_pictures_have_one(shape, kind):
    image = pytest.importorskip("PIL.Image")
    values = torch.linspace(0, 1, 24).reshape(4, 6).expand(shape)
    values = {"uint8": (values * 255).to(torch.uint8), "unit": values, "wide": values * 50 - 9}[kind]
    picture = np.asarray(image.open(io.BytesIO(corpus(values[None]).image(0))))
    assert picture.shape[:2] == (4, 6)
    assert picture.min() == 0 and picture.max() == 255


def test_other_arrays_have_no_picture(tokenizer):
    assert corpus(torch.zeros(2, 7)).image(0) is None
    assert corpus(torch.zeros(2, 5, 4, 4)).image(0) is None
    assert corpus({"x": torch.zeros(2, 3, 4, 4)}).image(0) is None
    assert corpus(["a"], tokenizer=tokenizer).image(0) is None


def test_a_table_is_refused_with_advice():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(DataError, match=r"to_numpy\('float32'\)"):
        corpus(pandas.DataFrame({"a": [1.0], "b": [2.0]}))
