/* Continues a prompt with the C interface of scalebits:
 *     generate MODEL PROMPT [TOKENS [TEMPERATURE [SEED]]]
 * Plain C99; link with -lscalebits. */
#include <scalebits/scalebits.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One attitude to errors is enough for an example. */
static void must(scalebits_status status) {
  if (status == SCALEBITS_OK) return;
  fprintf(stderr, "generate: %s\n", scalebits_last_error());
  exit(status);
}

/* Whether these bytes end inside of a UTF-8 character. */
static int ends_inside_a_character(const char* text, size_t length) {
  size_t back;
  for (back = 1; back <= 3 && back <= length; ++back) {
    const unsigned char byte = (unsigned char)text[length - back];
    if (byte >= 0xc0) return back < (size_t)(byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2);
    if (byte < 0x80) return 0;
  }
  return 0;
}

int main(int argc, char** argv) {
  scalebits_model* model;
  scalebits_session* session;
  scalebits_sampling sampling = scalebits_sampling_default();
  int32_t tokens[4096], token;
  size_t count, pending = 0;
  char text[1024];
  long wanted;

  if (argc < 3 || argc > 6) {
    fprintf(stderr, "usage: generate MODEL PROMPT [TOKENS [TEMPERATURE [SEED]]]\n");
    return SCALEBITS_USAGE;
  }
  wanted = argc > 3 ? strtol(argv[3], NULL, 10) : 64;
  sampling.temperature = argc > 4 ? strtod(argv[4], NULL) : 0;
  sampling.seed = argc > 5 ? strtoull(argv[5], NULL, 10) : 0;

  must(scalebits_model_open(argv[1], NULL, &model));
  must(scalebits_session_open(model, NULL, &session));
  must(scalebits_tokenize(model, argv[2], strlen(argv[2]), 1, tokens, sizeof tokens / sizeof *tokens, &count));
  /* Something must be read: an empty prompt is the beginning of any text. */
  if (count == 0) {
    tokens[0] = scalebits_start_token(model);
    if (tokens[0] < 0) {
      fprintf(stderr, "generate: this model cannot begin a text by itself; give it a prompt\n");
      return SCALEBITS_USAGE;
    }
    count = 1;
  }
  must(scalebits_evaluate(session, tokens, count));

  fputs(argv[2], stdout);
  for (; wanted > 0; --wanted) {
    size_t length;
    must(scalebits_sample(session, &sampling, &token));
    if (scalebits_is_end(model, token)) break;
    /* A character may be spread over several tokens: what is not whole waits for the next one. */
    must(scalebits_detokenize(model, &token, 1, 0, text + pending, sizeof text - pending, &length));
    pending += length;
    if (!ends_inside_a_character(text, pending)) {
      fwrite(text, 1, pending, stdout);
      fflush(stdout);
      pending = 0;
    }
    if (wanted > 1) must(scalebits_evaluate(session, &token, 1));
  }
  fwrite(text, 1, pending, stdout);
  putchar('\n');

  scalebits_session_close(session);
  scalebits_model_close(model);
  return 0;
}
