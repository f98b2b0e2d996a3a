import numpy as np
import pytest
from scipy.stats import binom

from neuronwise.discover import Group, make_problem
from neuronwise.discover._knockoffs import Maker, decoy_e_values, e_bh, whitened, wins
from neuronwise.discover.confidence import knockoff_filter, stability_selection
from neuronwise.errors import DataError, InvalidArgumentError
from neuronwise.formula import Base

# Fewer than the library, none of them like another on [-2, 2].
BASES = "x, x**2, sin(3*x), cos(3*x), x**5"


def table(rng, n=500, d=3, noise=0.3, terms=("x**2",)):
    X = rng.uniform(-2, 2, (n, d))
    signal = np.zeros(n)
    for term in terms:
        columns = Base(term)(X)
        signal += (columns / columns.std()) @ (rng.choice([-1, 1], d) * rng.uniform(0.5, 1.5, d))
    return X, signal + noise * max(signal.std(), 1.0) * rng.standard_normal(n)


# Stability selection


def test_a_true_base_function_is_found_in_every_half():
    X, y = table(np.random.default_rng(0))
    found = stability_selection(make_problem(X, y, bases=BASES), Group(), resamples=10).set_index("base")
    assert list(found.columns) == ["frequency", "low", "high"]
    assert set(found.index) == {str(base) for base in make_problem(X, y, bases=BASES).bases}
    assert found.frequency["x**2"] == 1
    assert found.high["x**2"] == pytest.approx(1) and found.low["x**2"] == pytest.approx(0.7225, abs=1e-3)
    assert found.frequency.drop("x**2").max() <= 0.2


def test_a_target_that_is_noise_has_no_frequent_base_function():
    rng = np.random.default_rng(1)
    problem = make_problem(rng.uniform(-1, 1, (400, 3)), rng.standard_normal(400))
    assert stability_selection(problem, Group(), resamples=10).frequency.max() <= 0.2


def test_halves_are_complementary_and_keep_the_share_of_classes():
    seen = []

    class Spy:
        name = "spy"

        def search(self, problem, *, engine="local", workers=None):
            seen.append((problem.X[:, 0].copy(), problem.y.copy()))
            return Group().search(problem)

    from neuronwise.discover.confidence import _Halves

    X = np.arange(41.0)[:, None]
    y = np.r_[np.zeros(30, int), np.ones(11, int)]
    job = _Halves(make_problem(X, y, bases="x", task="classification"), Spy(), seed=3)
    for number in range(4):
        job.run({}, (number, number, number + 1))
    first, second, third, _ = seen
    assert not np.array_equal(first[0], third[0])
    assert len(np.intersect1d(first[0], second[0])) == 0
    assert len(first[0]) + len(second[0]) == 41
    assert {int(first[1].sum()), int(second[1].sum())} == {5, 6}


def test_processes_find_the_same_and_so_does_a_second_run():
    X, y = table(np.random.default_rng(2), n=120, noise=1.5)
    problem = make_problem(X, y, bases=BASES)
    here = stability_selection(problem, Group(), resamples=6, seed=4)
    assert here.equals(stability_selection(problem, Group(), resamples=6, seed=4))
    assert here.equals(
        stability_selection(problem, Group(), resamples=6, seed=4, engine="processes", workers=2)
    )


def test_a_state_survives_its_dump():
    from neuronwise.discover.confidence import _Halves

    X, y = table(np.random.default_rng(2), n=60)
    job = _Halves(make_problem(X, y, bases="x"), Group(), seed=0)
    assert job.restore(job.dump({"x": 3, "x**2": 1})) == {"x": 3, "x**2": 1}
    assert job.fingerprint() != _Halves(make_problem(X, -y, bases="x"), Group(), seed=0).fingerprint()


@pytest.mark.parametrize("resamples", [0, 7])
def test_halves_come_in_pairs(resamples):
    X, y = table(np.random.default_rng(0), n=60)
    with pytest.raises(InvalidArgumentError, match="even"):
        stability_selection(make_problem(X, y, bases="x"), Group(), resamples=resamples)


# Knockoffs


def blocks(rng, n=200, groups=3, size=2, close=0.6):
    common = rng.standard_normal((n, size))
    parts = [close * common + (1 - close) * rng.standard_normal((n, size)) for _ in range(groups)]
    return whitened(parts, np.ones(n))


@pytest.mark.parametrize("copies", [1, 4])
def test_products_with_noise_vary_like_the_products_of_columns(copies):
    # For a target without any effect the original and all copies must be exchangeable: their products with it have
    # the covariance that the products of the columns say, also between originals and copies.
    rng = np.random.default_rng(0)
    made = Maker(blocks(rng), copies)
    draws = []
    for _ in range(6000):
        y = rng.standard_normal(200)
        decoys = made.make(y - y.mean(), rng)
        draws.append(decoys.target)
    products = np.vstack([decoys.rows(copy, slice(None)) for copy in range(copies + 1)])
    assert np.linalg.eigvalsh(products).min() > -1e-12
    assert np.abs(np.cov(np.array(draws).T) - products).max() < 0.1


def test_the_noise_is_estimated_without_bias():
    rng = np.random.default_rng(0)
    group = blocks(rng)
    maker, effect = Maker(group, 3), group.columns @ rng.standard_normal(6) * 50
    found = [maker.make(effect + (y := rng.standard_normal(200)) - y.mean(), rng).noise for _ in range(300)]
    assert np.mean(found) == pytest.approx(1, abs=0.03)


def test_one_of_several_copies_wins_by_chance_alone_where_there_is_no_effect():
    rng = np.random.default_rng(0)
    maker, won = Maker(blocks(rng), 3), []
    for _ in range(700):
        y = rng.standard_normal(200)
        won.extend(wins(maker.make(y - y.mean(), rng))[0])
    original = np.count_nonzero(np.array(won) == 0)
    assert binom.cdf(original, len(won), 0.25) > 0.001
    assert binom.sf(original - 1, len(won), 0.25) > 0.001


def test_e_values_by_hand():
    won, margin = np.array([0, 0, 0, 2, 0]), np.array([9.0, 8.0, 7.0, 5.0, 1.0])
    # Three originals before the first decoy; with 4 copies (1 + 0) / 4 <= 0.1 * 3 holds, for two it does not.
    assert decoy_e_values(won, margin, 4, 0.1).tolist() == [20, 20, 20, 0, 0]
    assert not decoy_e_values(won, margin, 1, 0.1).any()
    # e-BH: 5 / (20 * 3) for the third and, by the step-up rule, for those before it.
    assert e_bh(np.array([20.0, 20, 20, 0, 0])) == pytest.approx([1 / 12] * 3 + [1, 1])


@pytest.mark.parametrize("per_input", [False, True])
def test_the_false_discovery_rate_is_kept_and_true_ones_are_found(per_input):
    level, false, power = 0.3, [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        X, y = table(rng, terms=("x", "cos(3*x)"), noise=1.0)
        problem = make_problem(X, y, bases=BASES)
        found = knockoff_filter(problem, fdr=level, per_input=per_input, repeats=1, copies=4, seed=seed)
        assert (found.represented_by.str.split(" of ").str[0] == found.base).all()
        selected = found[found.selected]
        true = selected.base.isin(["x", "cos(3*x)"])
        false.append(1 - true.mean() if len(selected) else 0)
        power.append(true.sum() / (6 if per_input else 2))
    error = np.std(false) / np.sqrt(len(false))
    assert np.mean(false) <= level + 2 * error
    assert np.mean(false) > 0  # else the test could not see a filter that is too lenient
    assert np.mean(power) > 0.9


def test_noise_as_the_target_is_seldom_taken_for_a_discovery():
    # Without any true term every discovery is false: the rate is the chance of one at all.
    any_found = 0
    for seed in range(80):
        rng = np.random.default_rng(seed)
        problem = make_problem(rng.uniform(-2, 2, (300, 3)), rng.standard_normal(300), bases=BASES)
        any_found += knockoff_filter(problem, fdr=0.2, repeats=1, seed=seed).selected.any()
    assert binom.sf(any_found - 1, 80, 0.2) > 0.01


def test_the_default_finds_few_true_ones_among_the_library():
    X, y = table(np.random.default_rng(0), terms=("x**2",))
    found = knockoff_filter(make_problem(X, y)).set_index("base")
    assert found.index[found.selected].tolist() == ["x**2"]
    assert found.represented_by["abs(x)"] == "x**2"
    assert np.isnan(found.statistic["abs(x)"]) and found.statistic["x**2"] > 100
    assert (found.needed == 1).all()
    assert found.q["x**2"] <= 0.1 < found.q.drop("x**2").min()


def test_base_functions_named_first_stand_for_themselves():
    X, y = table(np.random.default_rng(0), terms=("abs(x)",))
    problem = make_problem(X, y, bases="x, abs(x), x**2, x**3")
    found = knockoff_filter(problem, first=(Base("abs(x)"),)).set_index("base")
    assert found.represented_by.to_dict() == {"x": "x", "abs(x)": "abs(x)", "x**2": "abs(x)", "x**3": "x**3"}
    assert found.index[found.selected].tolist() == ["abs(x)"]
    with pytest.raises(InvalidArgumentError, match=r"tanh\(x\)"):
        knockoff_filter(problem, first=(Base("tanh(x)"),))


def test_few_rows_allow_few_decoys_and_the_table_says_what_that_needs():
    X, y = table(np.random.default_rng(0), n=50, d=3)
    found = knockoff_filter(make_problem(X, y, bases="x, x**2, sin(3*x)"))
    assert (found.needed == 3).all()  # 4 decoys
    with pytest.raises(DataError, match="rows"):
        knockoff_filter(make_problem(X[:19], y[:19], bases="x, x**2, sin(3*x)"))


def test_duplicated_and_constant_inputs_are_no_directions():
    X, y = table(np.random.default_rng(0), terms=("x**2",))
    double = np.column_stack([X, X[:, 0], np.ones(len(X))])
    found = knockoff_filter(make_problem(double, y, bases="x, x**2")).set_index("base")
    assert found.selected.to_dict() == {"x": False, "x**2": True}
    single = knockoff_filter(make_problem(double, y, bases="x, x**2"), per_input=True)
    assert set(single.input) == {"x0", "x1", "x2", "x3"}
    copied = single[(single.input == "x3") & (single.base == "x**2")]
    assert copied.represented_by.item() == "x**2 of x0" and not copied.selected.item()


@pytest.mark.parametrize("task", ["classification", "count", "three"])
def test_classes_and_counts(task):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (800, 3))
    curve = 3 * X**2 @ [1, -1, 0.7]
    if task == "count":
        y = rng.poisson(np.exp(curve))
    elif task == "three":
        logits = np.column_stack([curve, -curve, np.zeros(800)])
        y = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    else:
        y = (curve + rng.logistic(size=800) > 0).astype(int)
    problem = make_problem(
        X, y, bases="x, x**2, sin(3*x), cos(3*x)", task="count" if task == "count" else "auto"
    )
    found = knockoff_filter(problem, fdr=0.2, distinct=0.2)
    assert found.base[found.selected].tolist() == ["x**2"]


def test_weights_of_zero_are_rows_that_are_not_there():
    X, y = table(np.random.default_rng(0), n=300)
    row = np.r_[np.ones(200), np.zeros(100)]
    weighted = knockoff_filter(make_problem(X, y, bases=BASES, sample_weight=row))
    plain = knockoff_filter(make_problem(X[:200], y[:200], bases=BASES))
    np.testing.assert_allclose(weighted.statistic, plain.statistic, rtol=1e-6)


def test_same_seed_same_table_and_global_chance_untouched():
    X, y = table(np.random.default_rng(0), noise=3.0)
    problem = make_problem(X, y, bases=BASES)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two, other = (knockoff_filter(problem, seed=seed) for seed in (1, 1, 2))
    assert one.equals(two) and not one.equals(other)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("wrong", [{"fdr": 0.0}, {"fdr": 1}, {"distinct": 0}, {"repeats": 0}, {"copies": 0}])
def test_arguments_out_of_range(wrong):
    X, y = table(np.random.default_rng(0), n=100)
    with pytest.raises(InvalidArgumentError):
        knockoff_filter(make_problem(X, y, bases="x"), **wrong)
