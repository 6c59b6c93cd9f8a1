"""bge-m3's three outputs, against FlagEmbedding's formulas in torch."""

from pathlib import Path

import numpy as np
import pytest

import jaxencoder

from .peers import D, save_peer

TEXTS = ["A man is playing a guitar.", "two dogs run in the Snow, two dogs", ""]
QUERIES = ["the man", "two dogs", "guitar"]
SIZE = 10


def write(folder: Path) -> Path:
    torch = pytest.importorskip("torch")
    folder.mkdir()
    save_peer("xlm-roberta", folder)
    torch.manual_seed(0)
    torch.manual_seed(0)
    torch.save(torch.nn.Linear(D, 1).state_dict(), folder / "sparse_linear.pt")
    torch.save(torch.nn.Linear(D, SIZE).state_dict(), folder / "colbert_linear.pt")
    return folder


def peer_outputs(folder: Path, texts: list[str], ids: list[np.ndarray]) -> list[tuple]:
    """For each text: its vector, the weights of the vocabulary, and its vectors of tokens."""
    import torch
    from torch.nn.functional import linear, normalize
    from transformers import AutoModel

    model, outputs = AutoModel.from_pretrained(folder), []
    heads = {name: torch.load(folder / f"{name}_linear.pt") for name in ("sparse", "colbert")}
    with torch.no_grad():
        for x in ids:
            hidden = model(torch.tensor(x)[None].long()).last_hidden_state
            weights = torch.relu(linear(hidden, heads["sparse"]["weight"], heads["sparse"]["bias"]))[0, :, 0]
            vocabulary = torch.zeros(model.config.vocab_size)
            vocabulary = vocabulary.scatter_reduce(0, torch.tensor(x).long(), weights, reduce="amax")
            vectors = linear(hidden[:, 1:], heads["colbert"]["weight"], heads["colbert"]["bias"])
            outputs.append((normalize(hidden[0, 0], dim=0), vocabulary, normalize(vectors[0], dim=-1)))
    return outputs


@pytest.mark.filterwarnings("ignore")
def test_three_outputs(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    model = jaxencoder.load(folder)
    tokenizer = model.tokenizer
    special = [tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, tokenizer.unk_id]
    expected = {}
    for name, texts in (("queries", QUERIES), ("texts", TEXTS)):
        outputs = peer_outputs(folder, texts, model.tokenize(texts))
        dense, lexical = (np.stack([x[i].numpy() for x in outputs]) for i in (0, 1))
        lexical[:, special] = 0
        expected[name] = dense, lexical, [x[2].numpy() for x in outputs]
        np.testing.assert_allclose(model.embed(texts), dense, atol=1e-5)
        np.testing.assert_allclose(model.lexical_weights(texts).toarray(), lexical, atol=1e-5)
        for ours, theirs in zip(model.embed_tokens(texts), expected[name][2], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
    (q_dense, q_lexical, q_tokens), (dense, lexical, tokens) = expected["queries"], expected["texts"]
    parts = [(q_dense * dense).sum(1), (q_lexical * lexical).sum(1)]
    parts.append(np.array([(q @ x.T).max(1).mean() for q, x in zip(q_tokens, tokens, strict=True)]))
    scores = model.hybrid_scores(QUERIES, TEXTS, weights=(0.4, 0.2, 0.4))
    for name, values in zip(("dense", "lexical", "tokens"), parts, strict=True):
        np.testing.assert_allclose(scores[name], values, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(scores["hybrid"], 0.4 * parts[0] + 0.2 * parts[1] + 0.4 * parts[2], atol=1e-5)
    (ranked,) = model.rerank(QUERIES[0], TEXTS[:1])
    assert ranked.score == pytest.approx(sum(x[0] for x in parts) / 3, abs=1e-5)


def test_heads_that_do_not_fit(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    folder = write(tmp_path / "model")
    torch.save(torch.nn.Linear(D, 2).state_dict(), folder / "sparse_linear.pt")
    with pytest.raises(ValueError, match="sparse_linear.pt gives 2 numbers for each token; a single weight"):
        jaxencoder.load(folder)
    torch.save(torch.nn.Linear(9, 1).state_dict(), folder / "sparse_linear.pt")
    with pytest.raises(ValueError, match="do not fit an encoder of size 24"):
        jaxencoder.load(folder)
    torch.save(torch.nn.Linear(D, 1, bias=False).state_dict(), folder / "sparse_linear.pt")
    with pytest.raises(ValueError, match="has the weights weight; weight and bias are needed"):
        jaxencoder.load(folder)
    (folder / "sparse_linear.pt").unlink()
    with pytest.raises(FileNotFoundError, match="only one of bge-m3's heads; add sparse_linear.pt"):
        jaxencoder.load(folder)
