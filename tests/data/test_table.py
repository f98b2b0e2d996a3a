import gzip

import numpy as np
import pandas as pd
import pytest

from neuronwise.data import BUNDLED_TABLES, inputs_like, read_table, split_target
from neuronwise.errors import DataError


@pytest.fixture
def frame():
    return pd.DataFrame(
        {"age": [1.0, 2.0, 3.0], "city": ["Ulm", "Bonn", "Ulm"], "rooms": [2, 3, 4], "price": [10, 20, 31]}
    )


@pytest.mark.parametrize(
    ("name", "separator"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t"), ("a.txt", "\t"), ("a.csv", "|")]
)
def test_separators_are_found(tmp_path, frame, name, separator):
    frame.to_csv(tmp_path / name, sep=separator, index=False)
    pd.testing.assert_frame_equal(read_table(tmp_path / name), frame)


def test_decimal_commas_are_numbers_where_the_comma_is_no_separator(tmp_path):
    (tmp_path / "a.csv").write_text("age;weight;city\n1,5;2.5;a,b\n-2,25;3;c\n")
    found = read_table(tmp_path / "a.csv")
    assert found["age"].tolist() == [1.5, -2.25]
    assert found["weight"].tolist() == [2.5, 3.0]
    assert found["city"].tolist() == ["a,b", "c"]


def test_parquet_gzip_and_one_column(tmp_path, frame):
    frame.to_parquet(tmp_path / "a.parquet")
    pd.testing.assert_frame_equal(read_table(tmp_path / "a.parquet"), frame)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(frame.to_csv(index=False).encode()))
    pd.testing.assert_frame_equal(read_table(tmp_path / "a.csv.gz"), frame)
    (tmp_path / "one.csv").write_text("price\n1\n2\n")
    assert read_table(tmp_path / "one.csv")["price"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "cannot be read"),
        ("a.csv", "größe,b\n1,2\n".encode("latin-1"), "not UTF-8 .* Save it as UTF-8"),
        ("a.csv", b"a,b\n", "0 rows"),
        ("a.csv", b"a,b\n1,2\n1,2,3,4\n", "cannot be read"),
        ("a.parquet", b"not parquet", "cannot be read"),
        ("a.pickle", b"x", "unknown kind"),
        ("a.csv", b" a,a\n1,2\n", "named twice"),
    ],
)
def test_broken_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / name)


def test_tables_of_scikit_learn():
    frame = read_table("diabetes")
    assert frame.shape == (442, 11)
    assert split_target(frame, "target").X.shape == (442, 10)
    for name in BUNDLED_TABLES:
        assert "target" in read_table(name)


def test_no_file(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(DataError, match="folder"):
        read_table(tmp_path)


def test_target_and_inputs(frame):
    data = split_target(frame, "price", inputs=["rooms", "age"])
    assert list(data.X.columns) == ["rooms", "age"]
    assert data.y.tolist() == [10, 20, 31]
    assert (data.X.to_numpy() == [[2, 1], [3, 2], [4, 3]]).all()
    assert data.describe()["target"] == "price"


def test_categories_are_encoded_when_asked(frame):
    with pytest.raises(DataError, match=r"'city' \(such as 'Ulm'\).*encode"):
        split_target(frame, "price")
    data = split_target(frame, "price", encode=True)
    assert list(data.X.columns) == ["age", "city=Bonn", "city=Ulm", "rooms"]
    assert data.X["city=Ulm"].tolist() == [1.0, 0.0, 1.0]
    assert data.encoded == {"city": ("city=Bonn", "city=Ulm")}


def test_inputs_of_another_table(frame):
    names = list(split_target(frame, "price", encode=True).X.columns)
    other = pd.DataFrame({"rooms": [9], "city": ["Ulm"], "age": [0.5], "more": ["?"]})
    assert inputs_like(other, names).to_numpy().tolist() == [[0.5, 0.0, 1.0, 9.0]]
    with pytest.raises(DataError, match=r"'city' holds 'Kiel'.*Bonn, Ulm"):
        inputs_like(other.assign(city="Kiel"), names)
    with pytest.raises(DataError, match=r"no column 'age' \(missing in all: 1\)"):
        inputs_like(other.drop(columns="age"), names)
    with pytest.raises(DataError, match="missing"):
        inputs_like(other.assign(age=np.nan), names)
    holes = pd.concat([other, other.assign(age=np.nan)], ignore_index=True)
    assert inputs_like(holes, names, drop_missing=True).index.tolist() == [0]
    with pytest.raises(DataError, match="not numeric"):
        inputs_like(other.assign(age="old"), names)


def test_identifiers_are_refused():
    frame = pd.DataFrame({"id": [f"row {i}" for i in range(200)], "x": range(200), "y": range(200)})
    with pytest.raises(DataError, match=r"'id' has 200 different values"):
        split_target(frame, "y", encode=True)


def test_missing_and_infinite_values_say_where(frame):
    holes = frame.assign(age=[1.0, np.nan, 3.0])
    with pytest.raises(DataError, match="1 value is missing: column 'age': 1, first in row 1"):
        split_target(holes, "price", drop=["city"])
    kept = split_target(holes, "price", drop=["city"], drop_missing=True)
    assert len(kept.X) == 2
    assert kept.dropped_rows == 1
    with pytest.raises(DataError, match=r"infinite: column 'rooms': 1, first in row 2"):
        split_target(frame.assign(rooms=[1.0, 2.0, np.inf]), "price", drop=["city"])
    with pytest.raises(DataError, match=r"infinite: column 'price'"):
        split_target(frame.assign(price=[1.0, 2.0, -np.inf]), "price", drop=["city"])
    with pytest.raises(DataError, match="nothing is left"):
        split_target(frame.assign(age=np.nan), "price", drop=["city"], drop_missing=True)


def test_columns_that_are_not_there(frame):
    with pytest.raises(DataError, match=r"no column 'prize'.*price"):
        split_target(frame, "prize")
    with pytest.raises(DataError, match="no column 'agee'"):
        split_target(frame, "price", drop=["agee"])
    with pytest.raises(DataError, match="cannot be an input"):
        split_target(frame, "price", inputs=["price", "age"])
    with pytest.raises(DataError, match="No input is left"):
        split_target(frame, "price", inputs=["city"], drop=["city"])


def test_the_fingerprint_is_of_names_and_values(frame):
    one = split_target(frame, "price", drop=["city"])
    same = split_target(frame.copy(), "price", drop=["city"])
    other = split_target(frame.assign(rooms=[2, 3, 5]), "price", drop=["city"])
    assert one.fingerprint == same.fingerprint != other.fingerprint
