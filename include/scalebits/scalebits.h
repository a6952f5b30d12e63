/* scalebits from any language: load a model, evaluate tokens, read logits, draw tokens, text to tokens and back.
 *
 *     scalebits_model* model;
 *     scalebits_session* session;
 *     if (scalebits_model_open("small.safetensors", NULL, &model) != SCALEBITS_OK) puts(scalebits_last_error());
 *     scalebits_session_open(model, NULL, &session);
 *     scalebits_evaluate(session, tokens, count);             what comes after these?
 *     scalebits_sample(session, NULL, &token);                the likeliest
 *
 * examples/generate.c is a whole program. Rules:
 * - Functions that can fail return a status, and tell what went wrong by scalebits_last_error(). They change nothing
 * when they fail, except as said. Null pointers are SCALEBITS_USAGE, except where null is said to mean something.
 * - A model and its sessions are for one thread at a time; different models are independent. Results depend neither on
 *   the number of threads nor on how tokens are cut into calls. A process made by fork() has none of the threads of the
 *   models opened before: reading with them is SCALEBITS_USAGE there (unless `threads` was 1), closing them works.
 * - Text is UTF-8, with its length in bytes; it need not end in a zero byte.
 * - Structures of options: take them from their _default() function, then change fields, so that fields of later
 * versions have their values.
 */
#ifndef SCALEBITS_SCALEBITS_H
#define SCALEBITS_SCALEBITS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Grows when something here changes so that programs must be compiled anew. */
#define SCALEBITS_API_VERSION 1

/* The same numbers as the exit statuses of the program `scalebits`. */
typedef enum scalebits_status {
  SCALEBITS_OK = 0,
  SCALEBITS_TOO_SMALL = 1,            /* the buffer; the count says how large it must be */
  SCALEBITS_USAGE = 2,                /* the call itself is wrong */
  SCALEBITS_BAD_INPUT = 3,            /* a file, text or token is not what it must be */
  SCALEBITS_UNSUPPORTED_HARDWARE = 5, /* the machine lacks the instruction set that was asked for */
  SCALEBITS_NO_MEMORY = 12,
  SCALEBITS_BUG = 70 /* of scalebits; please report it */
} scalebits_status;

typedef struct scalebits_model scalebits_model;
typedef struct scalebits_session scalebits_session;

/* SCALEBITS_API_VERSION of the library that runs. */
int32_t scalebits_api_version(void);
/* "0.1.0". */
const char* scalebits_version(void);
/* What the last failure in this thread was: a sentence, "" before the first. Valid until the next one. */
const char* scalebits_last_error(void);

/* ---- Models ---- */

typedef struct scalebits_model_options {
  int32_t threads;           /* 0: one for each core this process may use; SCALEBITS_NO_MEMORY when refused */
  int32_t exact_activations; /* 0: inputs of products are rounded to 8 bits, which is fast; 1: they stay f32 */
  const char* isa; /* the highest instruction set to use, as `scalebits kernels` names them; null: the machine's */
} scalebits_model_options;

scalebits_model_options scalebits_model_options_default(void);

/* Maps an artifact, a Hugging Face folder or a GGUF file. `options` null: the defaults. */
scalebits_status scalebits_model_open(const char* path, const scalebits_model_options* options,
                                      scalebits_model** model);
/* After its sessions. Null: nothing. */
void scalebits_model_close(scalebits_model* model);

/* Tokens are 0 … vocab_size - 1; there are as many logits. 0 for null. */
int32_t scalebits_vocab_size(const scalebits_model* model);
/* Tokens that a session may hold. 0 for null. */
int64_t scalebits_max_positions(const scalebits_model* model);
/* Whether the token ends a text. 0 for null. */
int32_t scalebits_is_end(const scalebits_model* model, int32_t token);
/* What an empty text begins with: the tokenizer's beginning-of-text token, else its end-of-text token, which stands
 * between documents. -1 when it has neither, when the model has no tokenizer, and for null. */
int32_t scalebits_start_token(const scalebits_model* model);

/* ---- Text ---- */

/* Writes the tokens of a text to `tokens`, which has room for `capacity`, and their number to `count`; with
 * SCALEBITS_TOO_SMALL the first `capacity` are written. `text_start` 1: the text begins a document: the model's
 * beginning-of-text token is put in front where its source does so. Names of special tokens in the text become those
 * tokens. SCALEBITS_BAD_INPUT when the model has no tokenizer. */
scalebits_status scalebits_tokenize(const scalebits_model* model, const char* text, size_t length, int32_t text_start,
                                    int32_t* tokens, size_t capacity, size_t* count);
/* The bytes the tokens stand for, in the same way; special tokens give nothing. The text of one token may end inside of
 * a character. `text_start` 1: a space that the tokenizer itself puts before the first word is left out. */
scalebits_status scalebits_detokenize(const scalebits_model* model, const int32_t* tokens, size_t count,
                                      int32_t text_start, char* text, size_t capacity, size_t* length);

/* ---- Sessions: one sequence of tokens each ---- */

typedef struct scalebits_session_options {
  int32_t kv_bits;       /* keys and values of past tokens: 16, or 8 for half the memory */
  int64_t max_positions; /* 0: what the model was made for */
} scalebits_session_options;

scalebits_session_options scalebits_session_options_default(void);

/* `options` null: the defaults. */
scalebits_status scalebits_session_open(scalebits_model* model, const scalebits_session_options* options,
                                        scalebits_session** session);
/* Null: nothing. */
void scalebits_session_close(scalebits_session* session);

/* Reads `count` >= 1 tokens after those read before. */
scalebits_status scalebits_evaluate(scalebits_session* session, const int32_t* tokens, size_t count);
/* [vocab_size] f32, of what comes after the last token read; valid until the next scalebits_evaluate, _keep or _close
 * of this session. Null when nothing has been read since the session was opened or cut. */
const float* scalebits_logits(const scalebits_session* session);
/* Tokens read. 0 for null. */
int64_t scalebits_length(const scalebits_session* session);
/* Forgets all but the first `count` tokens, 0 <= count <= length: a prompt that begins in the same way need not be read
 * again. Its logits are forgotten, too. */
scalebits_status scalebits_keep(scalebits_session* session, int64_t count);

typedef struct scalebits_sampling {
  double temperature;        /* 0: always the likeliest token */
  int32_t top_k;             /* draw among the k likeliest; 0: all */
  double top_p;              /* draw among the likeliest that together have this probability; 1: all */
  double min_p;              /* leave out what is less likely than this share of the likeliest; 0: nothing */
  double repetition_penalty; /* above 1: recent tokens become less likely; 0.01 to 100 */
  int32_t repetition_window; /* how many tokens are recent */
  uint64_t seed;             /* another seed, another text */
} scalebits_sampling;

/* Temperature 0, nothing cut, no penalty. */
scalebits_sampling scalebits_sampling_default(void);

/* Draws the token that comes next, and reads nothing. `sampling` null: the likeliest. A pure function of the logits,
 * the tokens read, their number and the options. SCALEBITS_USAGE when there are no logits. */
scalebits_status scalebits_sample(const scalebits_session* session, const scalebits_sampling* sampling, int32_t* token);

#ifdef __cplusplus
}
#endif

#endif
