"""Errors: a message that says what to do, an exit status, and both kept between processes."""

from __future__ import annotations

import pickle

import pytest

from tasks.core import errors

EVERY = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.RaymillError)]


@pytest.mark.parametrize("kind", EVERY)
def test_survives_pickling_whole(kind: type[errors.RaymillError]) -> None:
    error = kind("3 rows are odd", where="clean", fix="look at row 7")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.what, copy.where, copy.fix) == ("3 rows are odd", "clean", "look at row 7")
    assert str(copy) == str(error)


@pytest.mark.parametrize("kind", EVERY)
def test_exit_status_is_2_for_a_users_mistake_and_1_for_a_failed_run(kind: type[errors.RaymillError]) -> None:
    assert kind("odd").exit_status == (2 if issubclass(kind, errors.UserError) else 1)


@pytest.mark.parametrize("kind", EVERY)
def test_the_tree_at_the_top_of_the_module_names_every_error(kind: type[errors.RaymillError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")


def test_message_says_where_what_and_what_to_do() -> None:
    assert str(errors.InputError("no such file", where="a.csv", fix="give another")) == (
        "a.csv: no such file\n  → give another"
    )
    assert str(errors.InputError("no such file")) == "no such file"
