"""What the rewards that are pure functions say of completions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensloth.rewards import RewardPolicy, build_rewards
from opensloth.rewards.code_tests import last_block
from opensloth.rewards.failures import RowProblem
from opensloth.rewards.numeric import last_number, marked_answer, read_number
from opensloth.rewards.similarity import MEASURES
from opensloth.rewards.templates import columns_of, template_problem


def score(name: str, completion: str, row: dict[str, Any] | None = None, **params: Any) -> float:
    (bound,) = build_rewards([{"name": name, "params": params}], RewardPolicy())
    bound.reward.prepare(bound.params)
    (value,) = bound.reward.score(bound.params, [completion], [row or {}])
    return value


@pytest.mark.parametrize(
    ("completion", "answer", "params", "expected"),
    [
        ("Paris", "Paris", {}, 1),
        ("  Paris\n", "Paris", {}, 1),
        ("  Paris\n", "Paris", {"ignore_whitespace": False}, 0),
        ("paris", "Paris", {}, 0),
        ("PARIS.", "Paris", {"ignore_case": True, "ignore_punctuation": True}, 1),
        ("so it is\nParis", "Paris", {"part": "last_line"}, 1),
        ("", "Paris", {"part": "last_line"}, 0),
        ("Lyon", ["Paris", "Lyon"], {}, 1),
        ("4", 4, {}, 1),
        ("4", 4.0, {}, 1),
    ],
)
def test_exact_match_compares_what_it_is_told_to(completion, answer, params, expected):
    assert score("exact_match", completion, {"answer": answer}, **params) == expected


def test_exact_match_says_which_column_is_missing():
    with pytest.raises(RowProblem, match="`answer`"):
        score("exact_match", "x", {"other": 1})


@pytest.mark.parametrize(
    ("completion", "answer", "expected"),
    [
        ("So she has 18 eggs.\n#### 18", "Janet sells 16 - 3 - 4 = 9 eggs... #### 18", 1),
        ("#### 1,234", "1234", 1),
        ("#### $1,234.50", 1234.5, 1),
        (r"thus \boxed{42}", "42", 1),
        (r"thus \boxed{\frac{3}{4}}", "0.75", 1),
        (r"\boxed{\text{about }}", "3", 0),
        (r"first \boxed{41}, no: \boxed{42}", "42", 1),
        (r"\boxed{42} and 7 sheep", "42", 1),
        ("It is 3 then 5, so 8.", "8", 1),
        ("It is 3 then 5, so 8.", "5", 0),
        ("minus: −5", "-5", 1),
        ("#### 3/4", "0.75", 1),
        ("#### 1/0", "1", 0),
        ("no idea", "8", 0),
        ("", "8", 0),
        ("#### 1e400", "8", 0),
        (r"\boxed{", "8", 0),
        (r"\boxed{50\%}", "50%", 1),
        ("#### 0.3333333", "1/3", 1),
        ("#### 0.33", "1/3", 0),
    ],
)
def test_numeric_answer_reads_gsm8k_boxes_and_the_last_number(completion, answer, expected):
    assert score("numeric_answer", completion, {"answer": answer}) == expected


def test_numeric_answer_takes_a_bare_number_only_if_allowed():
    assert score("numeric_answer", "so 8", {"answer": 8}, last_number=False) == 0
    assert score("numeric_answer", "#### 8.4", {"answer": 8}, tolerance=0.1) == 1


@pytest.mark.parametrize(
    ("completion", "answer", "expected"),
    [
        (r"\boxed{(x+1)^2}", "x^2+2x+1", 1),
        (r"\boxed{\{2, 1\}}", r"\{1,2\}", 1),
        (r"\boxed{\frac{\sqrt{8}}{2}}", r"$\sqrt{2}$", 1),
        (r"\boxed{\sqrt{3}}", r"$\sqrt{2}$", 0),
        ("nothing", r"\sqrt{2}", 0),
        (r"\boxed{0.5}", r"\frac{1}{2}", 1),
        (r"\boxed{__import__('os').system('exit 1')}", "x+1", 0),
    ],
)
def test_numeric_answer_compares_mathematics(completion, answer, expected):
    assert score("numeric_answer", completion, {"answer": answer}, mode="math") == expected


@given(st.text(alphabet="\\boxed{}frac#1,.-+eE/ $%\n", max_size=60))
def test_any_text_can_be_searched_for_an_answer(text):
    marked_answer(text)
    read_number(text)
    last_number(text)


def test_answers_are_found_in_long_repetitive_text_at_once():
    for hostile in (r"\boxed{" * 100_000, "#" * 1_000_000, "1," * 500_000, "-" * 500_000, r"\frac{" * 100_000):
        marked_answer(hostile)
        last_number(hostile)


@pytest.mark.parametrize(
    ("completion", "params", "expected"),
    [
        ("<think>a\nb</think>c", {"pattern": r"<think>.*</think>", "dotall": True}, 1),
        ("<think>a\nb</think>c", {"pattern": r"<think>.*</think>"}, 0),
        ("xa", {"pattern": "a", "mode": "match"}, 0),
        ("A", {"pattern": "a", "mode": "fullmatch", "ignore_case": True}, 1),
        ("b", {"pattern": "a", "invert": True}, 1),
        ("x\na", {"pattern": "^a$", "multiline": True}, 1),
    ],
)
def test_regex_matches_as_asked(completion, params, expected):
    assert score("regex", completion, **params) == expected


@pytest.mark.parametrize(
    ("completion", "params", "expected"),
    [
        ("a b c", {"max": 3}, 1),
        ("a b c d", {"max": 3}, 0),
        ("a b c d", {"max": 3, "tolerance": 1}, 0.5),
        ("a", {"min": 2}, 0),
        ("", {"min": 0, "max": 0}, 1),
        ("abcd", {"unit": "characters", "target": 4}, 1),
        ("abcdef", {"unit": "characters", "target": 4, "tolerance": 3}, 0.5),
    ],
)
def test_length_is_rewarded_within_its_bounds_and_falls_beside_them(completion, params, expected):
    assert score("length", completion, **params) == expected


def test_length_counts_tokens_where_the_trainer_says_them():
    assert score("length", "xyz", {"completion_tokens": 2}, unit="tokens", max=2) == 1
    with pytest.raises(RowProblem, match="tokens"):
        score("length", "xyz", unit="tokens", max=2)


SCHEMA = {
    "type": "object",
    "required": ["a"],
    "properties": {"a": {"$ref": "#/$defs/n"}},
    "$defs": {"n": {"type": "integer"}},
}


@pytest.mark.parametrize(
    ("completion", "params", "expected"),
    [
        ('{"a": 1}', {}, 1),
        ('{"a": "1"}', {}, 0),
        ('{"a": "1"}', {"invalid_score": 0.25}, 0.25),
        ('{"a": NaN}', {"invalid_score": 0.25}, 0),
        ("[" * 100_000, {}, 0),
        ("9" * 10_000, {}, 0),
        ('Here:\n```json\n{"a": 1}\n```\n', {"part": "fenced"}, 1),
        ('Here:\n```json\n{"a": 1}\n```\n', {}, 0),
    ],
)
def test_json_is_checked_against_its_schema(completion, params, expected):
    assert score("json_schema", completion, schema=SCHEMA, **params) == expected


def test_a_schema_may_come_from_the_row_and_a_bad_one_is_the_rows_problem():
    row = {"schema": '{"type": "array"}'}
    assert score("json_schema", "[]", row, column="schema") == 1
    with pytest.raises(RowProblem, match="no valid JSON Schema"):
        score("json_schema", "[]", {"schema": {"type": "arry"}}, column="schema")


def test_a_schema_never_points_outside_itself():
    from opensloth.errors import InvalidInput

    for schema in ({"$ref": "http://127.0.0.1:1/x"}, {"properties": {"a": {"$ref": "file:///etc/passwd"}}}):
        with pytest.raises(InvalidInput, match="must stay within the schema"):
            build_rewards([{"name": "json_schema", "params": {"schema": schema}}], RewardPolicy())


@pytest.mark.parametrize(
    ("operation", "completion", "expected"),
    [
        ("eq", "Cat", 1),
        ("eq", "cat", 0),
        ("ne", "cat", 1),
        ("like", "a Cat sat", 1),
        ("like", "a cat", 0),
        ("ilike", "A CAT", 1),
    ],
)
def test_string_check_does_what_openais_grader_does(operation, completion, expected):
    assert (
        score("string_check", completion, {"a": {"b": "Cat"}}, reference="{{ item.a.b }}", operation=operation)
        == expected
    )


def test_templates_mix_text_the_row_and_the_completion():
    row = {"x": ["p", "q"]}
    assert score("string_check", "q!", row, input="{{sample.output_text}}?", reference="{{item.x.1}}!?") == 1


def test_a_place_that_is_not_closed_is_a_mistake_and_other_braces_are_text():
    assert "ends with" in str(template_problem("{{sample.output_text"))
    assert "ends with" in str(template_problem("{{item.x}} and {{ item.y}"))
    assert template_problem("{{item.x}} in {{ and {} or }}") is None


def test_similarity_is_one_for_the_same_text_and_falls_with_differences():
    for measure in MEASURES.values():
        assert measure("the quick brown fox jumps high", "the quick brown fox jumps high") == pytest.approx(1)
        assert 0 <= measure("the quick brown fox leaps high", "the quick brown fox jumps high") < 1
        assert measure("", "") == 1
        assert measure("", "a") == 0


def test_similarity_has_the_values_that_the_definitions_give():
    assert MEASURES["fuzzy_match"]("kitten", "sitting") == pytest.approx(2 * 4 / 13)
    assert MEASURES["rouge_1"]("the cat", "the cat sat") == pytest.approx(0.8)
    assert MEASURES["rouge_l"]("cat the", "the cat sat") == pytest.approx(2 * 1 / 5)
    assert MEASURES["gleu"]("the cat", "the cat sat") == pytest.approx(3 / 6)
    assert score("text_similarity", "the cat", {"a": "the cat sat"}, reference="{{item.a}}", pass_threshold=0.5) == 1


@given(st.text(alphabet="abc", max_size=12), st.text(alphabet="abc", max_size=12))
def test_a_fuzzy_match_is_the_share_of_the_longest_common_subsequence(a, b):
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    share = 2 * table[-1][-1] / (len(a) + len(b)) if a or b else 1.0
    assert MEASURES["fuzzy_match"](a, b) == pytest.approx(share)


def test_blocks_and_templates_are_found_in_hostile_text_at_once():
    for hostile in ("```" + "a" * 1_000_000, "```\n" * 100_000, " " * 1_000_000 + "```", "`" * 1_000_000):
        last_block(hostile)
    for template in ("{{" + " " * 16_000, "{{" * 8_000, "{{item" + ".a" * 8_000):
        template_problem(template)
        columns_of(template)


def test_the_last_python_block_is_the_code():
    assert last_block("a\n```python\nx = 1\n```\nb\n```py\ny = 2\n```\n```json\n{}\n```") == "y = 2\n"
    assert last_block("```\nx\n```") == "x\n"
    assert last_block("x = 1") is None
    assert last_block("```json\n{}\n```") is None
