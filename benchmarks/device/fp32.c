// The full-precision network behind the interface of saq.h: what quantized ones are compared with. Logits and map are
// floats, whose bits are handed on as integers, and saq_map returns 0. Nothing is clipped, so both maps are one.
//
// Its convolutions are computed window by window as pooling takes them, and nothing of their own size is ever stored:
// 14 kB are left of 16. A unit leaves one byte behind for the way back: 0 if nothing passes, or 1 + which of its four
// pixels was the largest.
#include "saq.h"
#include "model.h"

enum { SIDE = 28, K = 5, PAD = 2, C1 = 8, P1 = 14, C2 = 16, P2 = 5, FLAT = C2 * P2 * P2, D1 = 120, D2 = 84, CLASSES = 10 };
enum { WIDE = SIDE + 2 * PAD };  // of the map while it is added up, with the margin that kernels reach into

static uint8_t unit1[P1][P1][C1], unit2[C2][P2][P2], unit3[D1], unit4[D2];
static union {
  struct { float y1[P1][P1][C1], y2[FLAT], y3[D1], y4[D2]; };  // forward: what the units give
  struct { float d1[P1][P1], d2[FLAT], d3[D1], d4[D2]; };  // backward: the gradient there, of one channel of conv1
} room;

// The largest of a window of four sums, the first of equals, with bias and ReLU.
static float pooled(const float *sums, float bias, uint8_t *unit) {
  int best = 0;
  for (int i = 1; i < 4; i++)
    if (sums[i] > sums[best]) best = i;
  float value = sums[best] + bias;
  *unit = (uint8_t)(value > 0 ? 1 + best : 0);
  return value > 0 ? value : 0;
}

static void conv1(const uint8_t *image) {
  float patch[K + 1][K + 1];
  for (int y = 0; y < P1; y++)
    for (int x = 0; x < P1; x++) {
      for (int i = 0; i <= K; i++)
        for (int j = 0; j <= K; j++) {
          int row = 2 * y + i - PAD, column = 2 * x + j - PAD;
          int inside = row >= 0 && row < SIDE && column >= 0 && column < SIDE;
          patch[i][j] = inside ? (float)image[row * SIDE + column] * (1 / 255.0f) : 0;
        }
      for (int c = 0; c < C1; c++) {
        float sums[4] = {0, 0, 0, 0};
        const float *w = conv1_weights[c];
        for (int i = 0; i < K; i++)
          for (int j = 0; j < K; j++, w++) {
            sums[0] += *w * patch[i][j], sums[1] += *w * patch[i][j + 1];
            sums[2] += *w * patch[i + 1][j], sums[3] += *w * patch[i + 1][j + 1];
          }
        room.y1[y][x][c] = pooled(sums, conv1_bias[c], &unit1[y][x][c]);
      }
    }
}

static void conv2(void) {
  for (int c = 0; c < C2; c++)
    for (int y = 0; y < P2; y++)
      for (int x = 0; x < P2; x++) {
        float sums[4] = {0, 0, 0, 0};
        const float *w = conv2_weights[c];
        for (int i = 0; i < K; i++) {
          const float *upper = room.y1[2 * y + i][2 * x], *lower = room.y1[2 * y + i + 1][2 * x];
          for (int j = 0; j < K * C1; j++, w++) {
            sums[0] += *w * upper[j], sums[1] += *w * upper[j + C1];
            sums[2] += *w * lower[j], sums[3] += *w * lower[j + C1];
          }
        }
        room.y2[(c * P2 + y) * P2 + x] = pooled(sums, conv2_bias[c], &unit2[c][y][x]);
      }
}

static float dot(const float *w, const float *x, int n) {
  float sum = 0;
  while (n--) sum += *w++ * *x++;
  return sum;
}

static void dense(const float *w, const float *bias, const float *x, int inputs, int outputs, float *y, uint8_t *units) {
  for (int i = 0; i < outputs; i++, w += inputs) {
    float value = dot(w, x, inputs) + bias[i];
    units[i] = value > 0;
    y[i] = value > 0 ? value : 0;
  }
}

int saq_classify(const uint8_t image[784], int32_t logits[10]) {
  conv1(image);
  conv2();
  dense(dense1_weights[0], dense1_bias, room.y2, FLAT, D1, room.y3, unit3);
  dense(dense2_weights[0], dense2_bias, room.y3, D1, D2, room.y4, unit4);
  float largest = 0;
  int class = 0;
  for (int i = 0; i < CLASSES; i++) {
    union { float value; int32_t bits; } logit = {dot(dense3_weights[i], room.y4, D2) + dense3_bias[i]};
    if (i == 0 || logit.value > largest) largest = logit.value, class = i;
    logits[i] = logit.bits;
  }
  return class;
}

// The gradient in front of a dense layer: its rows, each times the gradient behind it, of those units that pass.
static void back(const float *w, const float *behind, const uint8_t *units, int outputs, int inputs, float *before) {
  for (int i = 0; i < inputs; i++) before[i] = 0;
  for (int o = 0; o < outputs; o++, w += inputs)
    if (units[o])
      for (int i = 0; i < inputs; i++) before[i] += behind[o] * w[i];
}

// Adds the kernel, `step` floats from one of its weights to the next, times a gradient to a plane of so many columns.
static void spread(float *to, int columns, const float *kernel, int step, float gradient) {
  for (int i = 0; i < K; i++, to += columns - K)
    for (int j = 0; j < K; j++, kernel += step) *to++ += gradient * *kernel;
}

int saq_map(int target, int passing, int32_t map[1024]) {
  float *sums = (float *)map;
  (void)passing;
  back(dense2_weights[0], dense3_weights[target], unit4, D2, D1, room.d3);
  back(dense1_weights[0], room.d3, unit3, D1, FLAT, room.d2);
  for (int i = 0; i < WIDE * WIDE; i++) sums[i] = 0;
  for (int c = 0; c < C1; c++) {
    for (int y = 0; y < P1; y++)
      for (int x = 0; x < P1; x++) room.d1[y][x] = 0;
    const float *gradient = room.d2;
    for (int o = 0; o < C2; o++)
      for (int y = 0; y < P2; y++)
        for (int x = 0; x < P2; x++, gradient++)
          if (unit2[o][y][x]) {
            int at = unit2[o][y][x] - 1;
            spread(&room.d1[2 * y + at / 2][2 * x + at % 2], P1, conv2_weights[o] + c, C1, *gradient);
          }
    for (int y = 0; y < P1; y++)
      for (int x = 0; x < P1; x++) {
        if (!unit1[y][x][c] || room.d1[y][x] == 0) continue;
        int at = unit1[y][x][c] - 1;
        spread(sums + (2 * y + at / 2) * WIDE + 2 * x + at % 2, WIDE, conv1_weights[c], 1, room.d1[y][x]);
      }
  }
  for (int y = 0; y < SIDE; y++)  // without the margin; what is written lies never behind what is still to be read
    for (int x = 0; x < SIDE; x++) sums[y * SIDE + x] = sums[(y + PAD) * WIDE + x + PAD];
  return 0;
}
