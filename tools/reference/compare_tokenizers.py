#!/usr/bin/env python3
"""Compare Spey's tokenizers with Hugging Face `tokenizers` and `sentencepiece` on random text.

    compare_tokenizers.py --tool build/DIR/tests/text/tokenize_main [--rounds N] [--seed S] [--only NAME]

Fixtures in tests/data/tokenizers, and configurations built here: tiny trained models with every normalizer,
pre-tokenizer and decoder. Prints each difference as one JSON line; the exit status is their number (at most 100).
Needs: pip install tokenizers sentencepiece. Text is drawn from characters that Unicode 14 knows, less those that
parts of the reference class by an older Unicode.
"""
import argparse, io, json, os, random, struct, subprocess, sys, tempfile, unicodedata

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RUST_BACKTRACE"] = "0"
import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import AddedToken

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


class Spey:
    """tests/text/tokenize_main behind a pipe."""

    def __init__(self, tool, path):
        self.process = subprocess.Popen([tool, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        status, payload = self.reply()
        if status:
            raise RuntimeError(payload.decode("utf-8", "replace"))

    def reply(self):
        head = self.process.stdout.read(8)
        if len(head) < 8:
            raise SystemExit(f"the tool ended with status {self.process.wait()}")
        status, n = struct.unpack("<II", head)
        payload = self.process.stdout.read(n)
        self.ns, = struct.unpack("<Q", self.process.stdout.read(8))
        return status, payload

    def ask(self, what, payload):
        self.process.stdin.write(what.encode() + struct.pack("<I", len(payload)) + payload)
        self.process.stdin.flush()
        status, payload = self.reply()
        if status:
            raise RuntimeError(payload.decode("utf-8", "replace"))
        return payload

    def encode(self, text, special=False):
        raw = self.ask("E" if special else "e", text.encode())
        return list(struct.unpack(f"<{len(raw) // 4}i", raw))

    def decode(self, ids, how="d"):
        return self.ask(how, struct.pack(f"<{len(ids)}i", *ids)).decode()

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


# ---- random text ----

BLOCKS = [(0x20, 0x7f)] * 8 + [(0, 0x20), (0x80, 0x180), (0x180, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x700),
          (0x900, 0xa00), (0xe00, 0xf00), (0x1100, 0x1200), (0x1e00, 0x2000), (0x2000, 0x2070), (0x2070, 0x2c00),
          (0x3000, 0x3100), (0x3100, 0x3400), (0x4e00, 0x5000), (0xac00, 0xad00), (0xf900, 0xfb00), (0xfb00, 0xfe00),
          (0xfe00, 0x10000), (0x10000, 0x10400), (0x1d400, 0x1d800), (0x1f000, 0x1fb00), (0x20000, 0x20100)]
SNIPPETS = [" ", "  ", "\n", "\r\n", "\n\n", "\t", " \n", "'s", "'LL", "'re ", "don't", "I'M", "\u017f", "'\u017f", "\u2581", "\u2581\u2581",
            "<s>", "</s>", "<unk>", "<pad>", "[UNK]", "[CLS]", "<0x41>", "<0xC3>", "<|endoftext|>", "<|extra_special|>", "foobarbaz",
            "the ", " of", "and", "123", "1234567", "3.14", "e\u0301", "\u0130", "\u1e9e", "\u00bd", "\u200d", "\u200b", "\u3000", "\u0660\u0661", "\u00a0",
            "\u0085", "\u2028", "\u180e", "\ufb01", "\u1e9b\u0323", "\u0344", "\uac00\u11a8", "\u1100\u1161\u11a8", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "--", "...", "_x_", "a_b",
            "Day", "DAY", " Day ", "xDayx"]


def outdated():
    """Characters that the reference's normalizers and Punctuation know by an older Unicode than 14."""
    found = set()
    for low, high in BLOCKS:
        for c in map(chr, range(max(low, 0x80), high)):
            category = unicodedata.category(c)
            if category in ("Cn", "Cs"):
                continue
            punctuation = len(pre_tokenizers.Punctuation().pre_tokenize_str("a" + c)) == 2
            mark = not normalizers.StripAccents().normalize_str(c)
            probe = "a\u0345\u0301" + c + "\u0323\u0345" + c
            if (punctuation != (category[0] == "P") or mark != (category[0] == "M")
                    or normalizers.NFKD().normalize_str(probe) != unicodedata.normalize("NFKD", probe)
                    or normalizers.NFC().normalize_str(probe) != unicodedata.normalize("NFC", probe)
                    or normalizers.Lowercase().normalize_str(c) != c.lower()):
                found.add(c)
    return found


OUTDATED = set()


def random_char(rng):
    while True:
        low, high = rng.choice(BLOCKS)
        c = chr(rng.randrange(low, high))
        if unicodedata.category(c) not in ("Cn", "Cs") and c not in OUTDATED:
            return c


def random_text(rng, corpus):
    parts = []
    for _ in range(rng.choice([0, 1, 1, 2, 3, 5, 8, 20])):
        kind = rng.random()
        if kind < 0.35:
            at = rng.randrange(len(corpus))
            parts.append(corpus[at:at + rng.randrange(1, 60)])
        elif kind < 0.65:
            parts.append(rng.choice(SNIPPETS) * rng.choice([1, 1, 1, 2, 5]))
        elif kind < 0.9:
            parts.append("".join(random_char(rng) for _ in range(rng.randrange(1, 8))))
        else:
            parts.append(random_char(rng) * rng.randrange(1, 80))
    return "".join(parts)


# ---- references ----

class HuggingFace:
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.size = max(self.tokenizer.get_vocab().values()) + 1

    def encode(self, text, special):
        return self.tokenizer.encode(text, add_special_tokens=special).ids

    def decode(self, ids, skip):
        return self.tokenizer.decode(ids, skip_special_tokens=skip)


class SentencePiece:
    def __init__(self, data):
        self.model = sentencepiece.SentencePieceProcessor(model_proto=data)
        self.size = self.model.get_piece_size()

    def encode(self, text, special):
        return self.model.encode(text)

    def decode(self, ids, skip):
        return None if skip else self.model.decode(ids)


def compare(name, reference, spey, rng, corpus, rounds):
    bad = 0

    def differ(what, given, want, got):
        nonlocal bad
        bad += 1
        print(json.dumps({"name": name, "what": what, "given": given, "want": want, "got": got}, ensure_ascii=False)[:1500])

    def ours(function, *args):
        try:
            return function(*args)
        except RuntimeError as error:
            return f"error: {error}"

    for _ in range(rounds):
        text = random_text(rng, corpus)
        for special in (False, True):
            try:
                want = reference.encode(text, special)
            except Exception as error:  # an unknown token that is missing
                want = f"error: {error}"
            except BaseException:  # a panic of the reference: pyo3's is no Exception
                continue
            got = ours(spey.encode, text, special)
            if got != want and not (isinstance(got, str) and isinstance(want, str)):
                differ("encode" + ("+special" if special else ""), text, want, got)
        if isinstance(got, str):
            continue
        for ids in (got, [rng.randrange(reference.size) for _ in range(rng.randrange(0, 12))],
                    [rng.randrange(min(reference.size, 270)) for _ in range(rng.randrange(0, 12))]):
            for skip in (False, True):
                try:
                    want = reference.decode(ids, skip)
                except BaseException:  # pyo3's panic is no Exception
                    want = None
                if want is not None and ours(spey.decode, ids, "D" if skip else "d") != want:
                    differ("decode" + ("+skip" if skip else ""), ids, want, ours(spey.decode, ids, "D" if skip else "d"))
            if ours(spey.decode, ids, "i") != ours(spey.decode, ids, "d"):
                differ("steps", ids, ours(spey.decode, ids, "d"), ours(spey.decode, ids, "i"))
    return bad


def write_fixture(folder, name, reference, data, is_model, rng, corpus, rounds):
    """tokenizer.json or .model, and cases.json as in tests/data/tokenizers."""
    os.makedirs(os.path.join(folder, name), exist_ok=True)
    with open(os.path.join(folder, name, "tokenizer.model" if is_model else "tokenizer.json"), "wb") as f:
        f.write(data if is_model else data.encode())
    cases = []
    for _ in range(rounds):
        text = random_text(rng, corpus)
        case = {"text": text, "ids_no_special": reference.encode(text, False)}
        if not is_model:
            case["ids"] = reference.encode(text, True)
            case["decoded_skip_special"] = reference.decode(case["ids"], True)
        case["decoded"] = reference.decode(case["ids_no_special"], False)
        cases.append(case)
    with open(os.path.join(folder, name, "cases.json"), "w", encoding="utf-8") as f:
        json.dump(cases, f, ensure_ascii=True)


# ---- configurations ----

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
            r"\s*[\r\n]+|\s+(?!\S)|\s+")
BEHAVIORS = ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]


def build(corpus, model="bpe", normalizer=None, pre=None, decoder=None, post=None, added=(), edit=None, **options):
    make = {"bpe": models.BPE, "unigram": models.Unigram, "wordpiece": models.WordPiece, "wordlevel": models.WordLevel}[model]
    trainer_options = options.pop("trainer", {})
    if model in ("wordpiece", "wordlevel"):
        options.setdefault("unk_token", "<unk>")
    tokenizer = Tokenizer(make(**options))
    if normalizer: tokenizer.normalizer = normalizer
    if pre: tokenizer.pre_tokenizer = pre
    if decoder: tokenizer.decoder = decoder
    if post: tokenizer.post_processor = post
    specials = ["<unk>", "<s>", "</s>"]
    kinds = {"bpe": trainers.BpeTrainer, "unigram": trainers.UnigramTrainer, "wordpiece": trainers.WordPieceTrainer,
             "wordlevel": trainers.WordLevelTrainer}
    if model == "unigram": trainer_options.setdefault("unk_token", "<unk>")
    trainer = kinds[model](vocab_size=600, special_tokens=specials, show_progress=False, **trainer_options)
    tokenizer.train_from_iterator([corpus[i:i + 200] for i in range(0, 40000, 200)], trainer)
    if added: tokenizer.add_tokens(list(added))
    data = json.loads(tokenizer.to_str())
    if edit: edit(data)
    return json.dumps(data)


def configurations(corpus):
    N, P, D = normalizers, pre_tokenizers, decoders
    byte_alphabet = {"initial_alphabet": P.ByteLevel.alphabet()}
    yield "bpe-plain", lambda: build(corpus)
    yield "bpe-unk", lambda: build(corpus, unk_token="<unk>", pre=P.WhitespaceSplit())
    yield "bpe-fuse-unk", lambda: build(corpus, unk_token="<unk>", fuse_unk=True)
    yield "bpe-clip", lambda: build(corpus, unk_token="<unk>", end_of_word_suffix="</w>", pre=P.Whitespace(), normalizer=N.Lowercase(),
                                    decoder=D.BPEDecoder(), trainer={"end_of_word_suffix": "</w>"})
    yield "bpe-prefix", lambda: build(corpus, unk_token="<unk>", continuing_subword_prefix="##", pre=P.Whitespace(),
                                      decoder=D.WordPiece(), trainer={"continuing_subword_prefix": "##"})
    for name, pattern in (("gpt2", GPT2), ("o200k", O200K), ("deepseek", DEEPSEEK), ("words", r"\w+|[^\w\s]+"), ("lines", r"^.+$|\n"),
                          ("digits", r"\d{1,3}(?=(?:\d{3})*\b)"), ("empty", r"x*"), ("possible", r"\p{N}{1,2}+|[^\S\n]+"),
                          ("han", r"[\p{Han}\p{Hiragana}]+|\p{Greek}+")):
        for behavior in (BEHAVIORS if name in ("gpt2", "words", "empty") else ["isolated"]):
            for invert in (False, True):
                yield f"split-{name}-{behavior}-{invert}", lambda pattern=pattern, behavior=behavior, invert=invert: build(
                    corpus, pre=P.Sequence([P.Split(Regex(pattern), behavior, invert), P.ByteLevel(False, use_regex=False)]),
                    decoder=D.ByteLevel(), trainer=byte_alphabet)
    for behavior in BEHAVIORS:
        yield f"split-string-{behavior}", lambda behavior=behavior: build(corpus, pre=P.Split(" ", behavior), unk_token="<unk>")
        yield f"punctuation-{behavior}", lambda behavior=behavior: build(corpus, pre=P.Punctuation(behavior), unk_token="<unk>")
    for add in (False, True):
        for use in (False, True):
            yield f"byte-level-{add}-{use}", lambda add=add, use=use: build(corpus, pre=P.ByteLevel(add, use_regex=use), decoder=D.ByteLevel(),
                                                                            trainer=byte_alphabet)
    yield "byte-level-partial", lambda: build(corpus, pre=P.ByteLevel(False), decoder=D.ByteLevel(), unk_token="<unk>", fuse_unk=True)
    yield "byte-level-normalizer", lambda: build(corpus, normalizer=N.ByteLevel(), decoder=D.ByteLevel(), trainer=byte_alphabet,
                                                 added=[AddedToken("foo bar", normalized=True), AddedToken("\u00e9t\u00e9", normalized=True)])
    for scheme in ("always", "first", "never"):
        for split in (False, True):
            yield f"metaspace-{scheme}-{split}", lambda scheme=scheme, split=split: build(
                corpus, "unigram", pre=P.Metaspace(prepend_scheme=scheme, split=split), decoder=D.Metaspace(prepend_scheme=scheme, split=split))
            yield f"metaspace-bpe-{scheme}-{split}", lambda scheme=scheme, split=split: build(
                corpus, unk_token="<unk>", pre=P.Metaspace(prepend_scheme=scheme, split=split), normalizer=N.Strip(),
                decoder=D.Metaspace(prepend_scheme=scheme, split=split), added=[AddedToken("Day", lstrip=True, rstrip=True)])
    for name, normalizer in (("nfc", N.NFC()), ("nfd", N.NFD()), ("nfkc", N.NFKC()), ("nfkd", N.NFKD()), ("lower", N.Lowercase()),
                             ("strip", N.Strip()), ("lstrip", N.Strip(left=True, right=False)), ("accents", N.Sequence([N.NFD(), N.StripAccents()])),
                             ("accents-only", N.StripAccents()), ("nmt", N.Nmt()), ("bert", N.BertNormalizer()),
                             ("bert-cased", N.BertNormalizer(lowercase=False)), ("bert-none", N.BertNormalizer(False, False, True, False)),
                             ("replace", N.Replace("a", "\u00e4\u00e4")), ("replace-regex", N.Replace(Regex(r"\s+|x+"), "_")),
                             ("prepend", N.Prepend("\u2581")), ("all", N.Sequence([N.NFKD(), N.Lowercase(), N.StripAccents(), N.NFC(), N.Strip()]))):
        yield f"normalizer-{name}", lambda normalizer=normalizer: build(
            corpus, normalizer=normalizer, pre=P.ByteLevel(False), decoder=D.ByteLevel(), trainer=byte_alphabet,
            added=[AddedToken("Day", normalized=True), AddedToken("\u00c9A", normalized=True, special=True), AddedToken("<x>", normalized=False)])
    for name, pre in (("whitespace", P.Whitespace()), ("bert", P.BertPreTokenizer()), ("digits", P.Digits(False)), ("digits-each", P.Digits(True)),
                      ("delimiter", P.CharDelimiterSplit("a")), ("fixed", P.FixedLength(3)),
                      ("falcon", P.Sequence([P.Punctuation("contiguous"), P.ByteLevel(False), P.Digits(False), P.Split(Regex("[0-9][0-9][0-9]"), "isolated")]))):
        yield f"pre-{name}", lambda pre=pre: build(corpus, pre=pre, unk_token="<unk>", trainer=byte_alphabet if "falcon" in str(pre) else {})
    yield "wordpiece", lambda: build(corpus, "wordpiece", normalizer=N.BertNormalizer(), pre=P.BertPreTokenizer(), decoder=D.WordPiece(),
                                     post=processors.BertProcessing(("</s>", 2), ("<s>", 1)))
    yield "wordpiece-plain", lambda: build(corpus, "wordpiece", pre=P.Whitespace(), decoder=D.WordPiece(cleanup=False), max_input_chars_per_word=10)
    yield "wordlevel", lambda: build(corpus, "wordlevel", pre=P.Whitespace(), post=processors.RobertaProcessing(("</s>", 2), ("<s>", 1)))
    yield "template", lambda: build(corpus, unk_token="<unk>", post=processors.Sequence([processors.ByteLevel(), processors.TemplateProcessing(
        single="<s> $A </s> $A </s>", pair="$A $B", special_tokens=[("<s>", 1), ("</s>", 2)])]))
    yield "unigram-plain", lambda: build(corpus, "unigram")

    def fallback(data):
        vocab = data["model"]["vocab"]
        if isinstance(vocab, dict):
            at = max(vocab.values()) + 1
            vocab.update({f"<0x{b:02X}>": at + b for b in range(256)})
        else:
            vocab += [[f"<0x{b:02X}>", 0.0] for b in range(256)]
        data["model"]["byte_fallback"] = True

    llama = dict(normalizer=N.Sequence([N.Prepend("\u2581"), N.Replace(" ", "\u2581")]),
                 decoder=D.Sequence([D.Replace("\u2581", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)]))
    yield "fallback-bpe", lambda: build(corpus, unk_token="<unk>", fuse_unk=True, edit=fallback, **llama)
    yield "fallback-unigram", lambda: build(corpus, "unigram", edit=fallback, **llama)
    for name, decoder in (("strip", D.Sequence([D.Strip("e", 2, 1)])), ("fuse-strip", D.Sequence([D.Fuse(), D.Strip("e", 1, 2)])),
                          ("byte-strip", D.Sequence([D.ByteLevel(), D.Strip(" ", 1, 1)])), ("replace", D.Replace("e", "--")),
                          ("replace-regex", D.Replace(Regex("[ea]+"), "<>")), ("fuse-replace", D.Sequence([D.Fuse(), D.Replace("e a", "*")])),
                          ("bytes", D.ByteFallback()), ("metaspace", D.Metaspace()), ("wordpiece", D.WordPiece(prefix="e"))):
        yield f"decoder-{name}", lambda decoder=decoder: build(corpus, unk_token="<unk>", decoder=decoder)
    yield "added", lambda: build(corpus, pre=P.ByteLevel(False), decoder=D.ByteLevel(), trainer=byte_alphabet, added=[
        AddedToken("Day", single_word=True), AddedToken("foobar", lstrip=True), AddedToken("foobarbaz", rstrip=True, special=True),
        AddedToken("oba", lstrip=True, rstrip=True, single_word=True), AddedToken("123", normalized=False, rstrip=True),
        AddedToken("1234", normalized=False, single_word=True), AddedToken("  ", normalized=False), AddedToken("\u00e9"), AddedToken("the ", special=True)])
    unigram = os.path.join(ROOT, "tests/data/tokenizers/sentencepiece-unigram/tokenizer.model")
    with open(unigram, "rb") as f:
        charsmap = charsmap_of(f.read())
    if charsmap:
        yield "precompiled", lambda: build(corpus, "unigram", normalizer=N.Sequence([N.Precompiled(charsmap), N.Replace(Regex(" {2,}"), " ")]),
                                           pre=P.Metaspace(), decoder=D.Metaspace())


def charsmap_of(model):
    """The precompiled charsmap of a SentencePiece model, without a protobuf library: the longest field 2 of field 3."""
    def fields(data):
        at = 0
        def varint():
            nonlocal at
            value = shift = 0
            while True:
                byte = data[at]; at += 1
                value |= (byte & 127) << shift; shift += 7
                if byte < 128: return value
        while at < len(data):
            tag = varint()
            if tag & 7 == 2:
                n = varint(); yield tag >> 3, data[at:at + n]; at += n
            elif tag & 7 == 0: varint()
            else: at += 4 if tag & 7 == 5 else 8
    for number, payload in fields(model):
        if number == 3:
            for inner, value in fields(payload):
                if inner == 2: return value
    return b""


def sentencepiece_models(corpus):
    lines = [line for line in corpus[:60000].split("\n") if line.strip()]
    for model_type in ("bpe", "unigram"):
        for name, options in (("default", {}), ("identity", {"normalization_rule_name": "identity"}),
                              ("no-prefix", {"add_dummy_prefix": False, "remove_extra_whitespaces": False}),
                              ("suffix", {"treat_whitespace_as_suffix": True}), ("fallback", {"byte_fallback": True}),
                              ("nfkc-cf", {"normalization_rule_name": "nmt_nfkc_cf"}), ("digits", {"split_digits": True, "byte_fallback": True}),
                              ("user", {"user_defined_symbols": ["Day", "<sep>", "e t", "\u2581the", "\uff21"], "control_symbols": ["<ctl>"]}),
                              ("user-fallback", {"user_defined_symbols": ["oo", "ooo", "  "], "byte_fallback": True,
                                                 "remove_extra_whitespaces": False, "normalization_rule_name": "identity"})):
            def make(model_type=model_type, options=options):
                out = io.BytesIO()
                sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=out, vocab_size=900, model_type=model_type,
                                                         hard_vocab_limit=False, minloglevel=2, num_threads=1, character_coverage=0.99, **options)
                return out.getvalue()
            yield f"sp-{model_type}-{name}", make


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tool")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--write", help="write fixtures of the built configurations into this folder, compare nothing")
    options = parser.parse_args()
    OUTDATED.update(outdated())
    with open(os.path.join(ROOT, "tests/data/text/eval1.txt"), encoding="utf-8") as f:
        corpus = f.read()
    total = 0

    def run(name, data, is_model, where=None):
        nonlocal total
        reference = SentencePiece(data) if is_model else HuggingFace(Tokenizer.from_str(data))
        if options.write:
            if where is None:
                write_fixture(options.write, name, reference, data, is_model, random.Random(f"{options.seed}{name}"), corpus, options.rounds)
            return
        with tempfile.TemporaryDirectory() as folder:
            path = where
            if path is None:
                path = os.path.join(folder, "tokenizer.model" if is_model else "tokenizer.json")
                with open(path, "wb") as f:
                    f.write(data if is_model else data.encode())
            try:
                spey = Spey(options.tool, path)
            except RuntimeError as error:
                print(json.dumps({"name": name, "what": "open", "got": str(error)}, ensure_ascii=False))
                total += 1
                return
            bad = compare(name, reference, spey, random.Random(f"{options.seed}{name}"), corpus, options.rounds)
            spey.close()
            total += bad
            print(f"{name}: {bad} differences", file=sys.stderr)

    folder = os.path.join(ROOT, "tests/data/tokenizers")
    for name in sorted(os.listdir(folder)):
        for file in ("tokenizer.json", "tokenizer.model"):
            path = os.path.join(folder, name, file)
            if options.only in name and os.path.exists(path):
                with open(path, "rb") as f:
                    data = f.read()
                is_model = file.endswith(".model")
                run(name, data if is_model else data.decode(), is_model, path)
    for generator, is_model in ((configurations, False), (sentencepiece_models, True)):
        for name, make in generator(corpus):
            if options.only in name:
                run(name, make(), is_model)
    return min(total, 100)


if __name__ == "__main__":
    sys.exit(main())
