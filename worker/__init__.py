"""The worker: one process that holds one model and generates tokens for all its callers in one left-padded batch.

It is the token domain. Text, chat templates and stop strings belong to the gateway, which it must not know.

The process: `cli` reads flags, `server` loads the model (`loading/loading`), puts an engine together (`assembly`), runs
it once before anybody waits (`warm_up`), listens and drains; `quantize` writes a checkpoint instead.

The life of a sequence, by folder and file; imports go down this list, and `loading`, `memory` and `domain` end it:

1. `service/`: a message of the gateway's stream comes to `service`, is checked and becomes sequences in `submission`,
   which their `connection` knows by id.
2. `engine/`: `engine_thread` takes them between two steps, and hands them to the scheduler of its `engine`, whose step
   is schedule, run, update.
3. `scheduling/`: `scheduler` says what the next step does: who waits, is prefilled chunk by chunk (`reading`,
   `chunk_budget`), joins the batch, gives way (`views`), or is computed again after a failure (`recovery`).
4. `runners/`: one of `model_runner` (transformers), `native/runner` (C) and `cuda/runner` (captured graphs) turns the
   tokens into logits, over the keys and values of `memory/batch` and `memory/group`.
5. `sampling/`: `sampler` chooses a token for each row, by `stages` and `drawing`; a beam search chooses in
   `engine/beam_search`. `scheduler` appends it to the `domain/sequence`, which may end with it.
6. `service/`: what the step made goes to each gateway's `connection`, which merges what is not taken at once, as
   `messages`; a sequence that has ended leaves the batch with the next step.
"""
