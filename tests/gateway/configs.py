"""Generation configs, for tests of properties that hold for all of them."""

from hypothesis import strategies as st

from gateway.domain.generation_config import EarlyStopping, ExponentialDecay, GenerationConfig

EVERYTHING = GenerationConfig(
    max_new_tokens=40,
    min_new_tokens=3,
    stop_token_ids=(7,),
    ignore_eos=True,
    max_time=2.0,
    do_sample=True,
    seed=5,
    temperature=0.6,
    top_k=20,
    top_p=0.9,
    min_p=0.1,
    typical_p=0.8,
    epsilon_cutoff=0.01,
    repetition_penalty=1.1,
    presence_penalty=0.5,
    frequency_penalty=0.25,
    no_repeat_ngram_size=3,
    exponential_decay_length_penalty=ExponentialDecay(4, 1.5),
    logit_bias=((3, 1.0),),
    bad_words_ids=((1, 2),),
    allowed_token_ids=(1, 2, 3),
    suppress_tokens=(5,),
    begin_suppress_tokens=(6,),
    forced_bos_token_id=7,
    forced_eos_token_id=8,
    length_penalty=0.5,
    early_stopping=EarlyStopping.NEVER,
    num_return_sequences=2,
    best_of=4,
)
"""Sets all but num_beams, which goes with little else, each to what is no default."""

_IDS = st.integers(0, 49)
_ID_LISTS = st.lists(_IDS, max_size=4).map(tuple)
_DECAYS = st.builds(ExponentialDecay, st.integers(0, 20), st.floats(0.5, 2.0))


def configs() -> st.SearchStrategy[GenerationConfig]:
    """Configs whose every value is in its range; they may contradict themselves."""
    return st.builds(
        GenerationConfig,
        max_new_tokens=st.none() | st.integers(1, 120),
        min_new_tokens=st.none() | st.integers(0, 120),
        stop_token_ids=_ID_LISTS,
        ignore_eos=st.none() | st.booleans(),
        max_time=st.none() | st.integers(10**8, 10**10).map(lambda nanos: nanos / 1e9),
        do_sample=st.none() | st.booleans(),
        seed=st.none() | st.integers(0, 2**63 - 1),
        temperature=st.none() | st.just(0.0) | st.floats(0.1, 2.0),
        top_k=st.none() | st.integers(0, 100),
        top_p=st.none() | st.floats(0.1, 1.0),
        min_p=st.none() | st.floats(0.0, 1.0),
        typical_p=st.none() | st.floats(0.1, 1.0),
        epsilon_cutoff=st.none() | st.floats(0.0, 0.9),
        repetition_penalty=st.none() | st.floats(0.5, 2.0),
        presence_penalty=st.none() | st.floats(-2.0, 2.0),
        frequency_penalty=st.none() | st.floats(-2.0, 2.0),
        no_repeat_ngram_size=st.none() | st.integers(0, 5),
        exponential_decay_length_penalty=st.none() | _DECAYS,
        logit_bias=st.dictionaries(_IDS, st.floats(-5.0, 5.0), max_size=3).map(
            lambda biases: tuple(sorted(biases.items()))
        ),
        bad_words_ids=st.lists(st.lists(_IDS, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
        allowed_token_ids=_ID_LISTS,
        suppress_tokens=_ID_LISTS,
        begin_suppress_tokens=_ID_LISTS,
        forced_bos_token_id=st.none() | _IDS,
        forced_eos_token_id=st.none() | _IDS,
        num_beams=st.none() | st.integers(1, 8),
        length_penalty=st.none() | st.floats(-2.0, 2.0),
        early_stopping=st.none() | st.integers(1, 3),
        num_return_sequences=st.none() | st.integers(1, 8),
        best_of=st.none() | st.integers(1, 8),
    )
