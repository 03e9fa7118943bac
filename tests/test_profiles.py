"""Sizes of a run, and the data sets that a notebook asks for."""

import pytest

from xraykit import profiles
from xraykit.errors import DataError


def test_every_notebook_has_both_profiles_with_the_same_sizes():
    for notebook, by_profile in profiles.SIZES.items():
        assert set(by_profile) == {"quick", "full"}, notebook
        assert set(by_profile["quick"]) == set(by_profile["full"]), notebook


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(DataError, match=r"'10'; there are \['01', '02'"):
        profiles.sizes("10", "quick")
    with pytest.raises(DataError, match=r"'fast' is unknown; use one of \['full', 'quick'\]"):
        profiles.sizes("01", "fast")


def test_synthetic_comes_with_its_multilabel_twin_and_the_arguments_win():
    chosen = profiles.sizes("02", "quick")
    sets = profiles.load_sets("synthetic", chosen, seed=3, image_size=32, n_patients=12)
    assert list(sets) == ["synthetic", "synthetic-nih"]
    for ds in sets.values():
        assert ds.images.shape[1:] == (32, 32)
        assert ds.records["patient_id"].nunique() == 12
    assert list(profiles.load_sets("synthetic-nih", chosen, seed=3, image_size=32, n_patients=12)) == [
        "synthetic-nih"
    ]


def test_a_real_set_is_read_whole(kermany_dir, tmp_path):
    chosen = profiles.sizes("01", "quick")
    ds = profiles.load_sets("kermany", chosen, seed=0, image_size=16, data_dir=str(tmp_path))["kermany"]
    assert len(ds) == 5840
