from __future__ import annotations

import hashlib

import pandas as pd
import pytest

from neuronwise.errors import InvalidArgumentError, NeuronwiseError, NotAResultError
from neuronwise.store import query

from . import samples


@pytest.fixture
def run(tmp_path):
    return samples.toy().save(tmp_path / "it's a run; DROP")


def test_a_table_is_there_under_its_name(run):
    got = query(run, "SELECT site, avg(mean) AS mean, count(*) AS n FROM neurons GROUP BY site ORDER BY mean")
    assert got["site"].tolist() == samples.SITES
    assert got["mean"].tolist() == [1, 4, 7]
    assert got["n"].tolist() == [3, 3, 3]
    assert "result" not in query(run, "FROM neurons")


def test_an_undefined_statistic_is_null_and_an_infinite_one_is_not(run):
    got = query(run, "SELECT count(kurtosis) AS n, max(kurtosis) AS most FROM neurons")
    assert got["n"][0] == len(samples.neurons()) - 1
    assert got["most"][0] == float("inf")


def test_top_examples_of_one_neuron(run):
    got = query(
        run, f"FROM examples WHERE site = '{samples.SITES[1]}' AND neuron = 2 AND side = 'top' ORDER BY rank"
    )
    assert got["rank"].tolist() == [0, 1, 2, 3]


def test_the_manifest_can_be_joined(run):
    got = query(
        run, "SELECT model_name, model_class, n_parameters, count(*) AS n FROM model, neurons GROUP BY ALL"
    )
    assert got.iloc[0].tolist() == ["tiny <llama>", "Llama", 860, 9]
    got = query(
        run, "SELECT kind, action, seed, parameters->>'top' AS top, data->>'kind' AS data FROM provenance"
    )
    assert got.iloc[0].tolist() == ["toy", "observe", 3, "4", "text"]


def test_a_card_may_lack_anything(tmp_path):
    folder = samples.toy(model={}, data={}, action={}, seed=None).save(tmp_path / "run")
    assert query(folder, "SELECT model_name, n_parameters FROM model").isna().all(axis=None)
    assert query(folder, "SELECT seed, action, data_name FROM provenance").isna().all(axis=None)


def test_results_of_different_people_are_joined(tmp_path):
    mine = samples.toy().save(tmp_path / "mine")
    hers = samples.Toy({"neurons": samples.neurons(shift=10).assign(extra=1.0)}, samples.manifest(seed=9))
    hers = hers.save(tmp_path / "hers")
    got = query(
        [mine, hers],
        """
        SELECT site, neuron, a.mean AS mine, b.mean AS hers, b.extra, p.seed
        FROM neurons a JOIN neurons b USING (site, neuron) JOIN provenance p ON p.result = b.result
        WHERE a.result = 'mine' AND b.result = 'hers' ORDER BY mine
        """,
    )
    assert (got["hers"] - got["mine"] == 10).all()
    assert got["extra"].tolist() == [1.0] * 9
    assert got["seed"].tolist() == [9] * 9
    # A table that only one folder has, and a column that only one has.
    assert query([mine, hers], "SELECT DISTINCT result FROM examples")["result"].tolist() == ["mine"]
    assert query([mine, hers], "SELECT count(extra) AS n FROM neurons WHERE result = 'mine'")["n"][0] == 0


def test_folders_of_the_same_name_are_told_apart(tmp_path):
    paths = [samples.toy(shift=i).save(tmp_path / person / "o'run") for i, person in enumerate("ab")]
    got = query(paths, "SELECT result, min(mean) AS least FROM neurons GROUP BY result ORDER BY least")
    assert got["result"].tolist() == [str(path) for path in paths]
    with pytest.raises(InvalidArgumentError, match="named twice"):
        query([paths[0], paths[0]], "FROM neurons")
    with pytest.raises(InvalidArgumentError, match="no folder"):
        query([], "FROM neurons")
    with pytest.raises(NotAResultError):
        query([paths[0], tmp_path], "FROM neurons")


@pytest.mark.parametrize(
    "sql", ["SELECT x FROM neuron", "SELEC", "SELECT kurtosi FROM neurons", "SELECT ?", ""]
)
def test_wrong_sql_lists_what_there_is(run, sql):
    with pytest.raises(InvalidArgumentError) as caught:
        query(run, sql)
    assert "neurons(site, layer, neuron, n, nonfinite, mean, kurtosis)" in str(caught.value)
    assert "model(result, model_name" in str(caught.value)


def test_variables_of_the_program_are_not_tables(run):
    secret = pd.DataFrame({"password": ["x"]})
    with pytest.raises(InvalidArgumentError):
        query(run, "FROM secret")
    assert len(secret) == 1


ATTACKS = [
    "COPY neurons TO '{out}'",
    "COPY neurons TO '{table}' (USE_TMP_FILE false)",
    "EXPLAIN ANALYZE COPY neurons TO '{table}' (USE_TMP_FILE false)",
    "WITH x AS (COPY (SELECT 1) TO '{table}' (USE_TMP_FILE false)) SELECT * FROM x",
    "SELECT 1; COPY neurons TO '{out}'",
    "EXPORT DATABASE '{out}'",
    "IMPORT DATABASE '{out}'",
    "ATTACH '{out}' AS other",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('{secret}')",
    "SELECT * FROM read_blob('{secret}')",
    "SELECT * FROM '{secret}'",
    "SELECT * FROM read_parquet('{table}')",
    "SELECT * FROM parquet_metadata('{table}')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM 'https://example.org/x.parquet'",
    "CREATE TABLE mine AS FROM read_csv('{secret}')",
    "INSTALL httpfs",
    "LOAD httpfs",
    "CREATE PERSISTENT SECRET s (TYPE s3)",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "RESET allowed_paths",
    "SET allowed_directories = ['/']",
    "PRAGMA temp_directory = '{out}'",
    "SELECT * FROM enable_logging(storage = 'file', storage_config = {{'path': '{out}'}})",
    "SELECT getenv('HOME')",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_sql_reaches_nothing_outside(run, tmp_path, attack):
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    before = {path.name: hashlib.sha256(path.read_bytes()).digest() for path in run.iterdir()}
    table = str(run / "neurons.parquet").replace("'", "''")
    with pytest.raises(NeuronwiseError):
        query(run, attack.format(out=tmp_path / "out", secret=secret, table=table))
    assert {path.name: hashlib.sha256(path.read_bytes()).digest() for path in run.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([run.name, "secret.csv"])


def test_an_attack_in_the_name_of_a_folder(tmp_path):
    paths = [samples.toy(shift=i).save(tmp_path / name) for i, name in enumerate(["' || 1; DROP --", '" x'])]
    assert set(query(paths, "SELECT DISTINCT result FROM neurons")["result"]) == {path.name for path in paths}
