"""Balanced class weights, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from trocar.downstream.training.loss import balanced_weights


def test_median_frequency_balancing_gives_the_middle_class_one_and_an_absent_class_one() -> None:
    assert balanced_weights(np.array([0] * 8 + [1] * 4 + [2] * 2 + [-1] * 5), 4).tolist() == [0.5, 1.0, 2.0, 1.0]
    assert balanced_weights(np.array([0, 0, 0, 0, 1, 1, 3]), 4).tolist() == [0.5, 1.0, 1.0, 2.0]


def test_positives_of_several_labels_weigh_as_much_as_the_negatives() -> None:
    tools = np.array([[1, 0, 1], [1, 0, 1], [0, 0, 1], [1, 0, 1]])
    assert balanced_weights(tools, 3) == pytest.approx([1 / 3, 1, 1])


def test_an_unlabelled_entry_counts_neither_as_positive_nor_as_negative() -> None:
    assert balanced_weights(np.array([[1, 0], [0, -1], [0, 0], [0, 1]]), 2).tolist() == [3.0, 2.0]


def test_soft_labels_count_as_shares() -> None:
    assert balanced_weights(np.array([[1 / 3], [2 / 3], [0.0], [1.0]]), 1) == pytest.approx([1.0])


def test_nothing_labelled_weighs_all_classes_alike() -> None:
    assert balanced_weights(np.array([-1, -1]), 3).tolist() == [1, 1, 1]
