// The network of saq.h, forward and backward: conv1 5x5, padded - pool - conv2 5x5 - pool - dense1 - dense2 - dense3.
//
// Forward, a layer sums weights times codes, and an activation compares. A unit whose sum is below `start` is at level 0,
// not above zero; from there the sum climbs the unit's `rises`, a level with each. Level n has the code n - 1, but the last
// one, TOP + 2, is the clip's and has the largest code TOP, too. The bias is in `start`. So what the network rounds in
// float32 is a comparison here, half-way cases included. A unit leaves one byte behind for the way back:
//   bits 0-3 its code, 4-5 which of the four pixels of its pooling window was the largest, 6 above zero, 7 not clipped
// Backward, gradients are whole numbers with one exponent for all. Before they meet a layer's weights, a shift to the
// right, which the exponent counts, brings the largest of them to 15 bits: then no sum of products has more than 30.
#include "saq.h"
#include "model.h"

enum { SIDE = SAQ_SIDE, K = 5, P1 = 14, P2 = 5, FLAT = C2 * P2 * P2 };  // pixels, kernel, pixels behind the poolings
enum { CODE = 15, PIXEL = 4, POSITIVE = 0x40, UNCLIPPED = 0x80 };       // of a unit's byte
// Two zeros around the image; those right of a row are also those left of the next one, so a row is 30 long.
enum { PAD = 2, ROW = SIDE + PAD, PADDED = (SIDE + 2 * PAD) * ROW + PAD };
// Weights between the first and the last layer are packed in pieces of 16 bits, the first in the highest bits, and a row is
// filled up by at most SPARE zeros. Ternary ones have 2 bits and meet codes in planes of 2 bits; others have 4 bits.
#define BITS(ternary) ((ternary) ? 2 : 4)
#define PIECES(inputs, ternary) (((inputs) * BITS(ternary) + 15) / 16)
#define PLANES(top, ternary) ((ternary) && (top) > 3 ? 2 : 1)
enum { SPARE = 7, BITS2 = BITS(CONV2_TERNARY), PLANES2 = PLANES(CONV1_TOP, CONV2_TERNARY) };
enum { PIECES2 = PIECES(K * K * C1, CONV2_TERNARY), WORDS2 = (PIECES2 + 1) / 2 };

static uint8_t unit1[P1 * P1 * C1], unit2[FLAT], unit3[D1], unit4[D2];  // unit1: channels last; unit2: channels first
static uint32_t masks[2 * (MOST / 16 + 1)];                             // of one row of ternary weights
static union {
  struct { uint8_t image[PADDED]; uint16_t codes[PLANES2][P1 * P1]; } conv1;  // codes: of 8 channels, 2 bits each
  uint32_t patch[CONV2_TERNARY ? 4 * PLANES2 * WORDS2 : (K + 1) * K * C1 + SPARE], codes[MOST + SPARE];
  struct { int16_t gradient[FLAT]; int32_t plane[P1 * P1]; } back;
} scratch;

// ---------------------------------------------------------------------------------------------------------- forward
static uint8_t unit(int level, int top, int pixel) {
  if (level == 0) return (uint8_t)(pixel << PIXEL);
  return (uint8_t)((level == top + 2 ? top : (level - 1) | UNCLIPPED) | POSITIVE | pixel << PIXEL);
}

static uint8_t climb(int32_t sum, const rise *rises, int top, int pixel) {  // sum: less `start`
  int level = 0;
  while (sum >= 0 && ++level < top + 2) sum -= *rises++;
  return unit(level, top, pixel);
}

static int largest(const int32_t sums[4]) {  // the first of equals, as in training
  int best = 0;
  for (int i = 1; i < 4; i++)
    if (sums[i] > sums[best]) best = i;
  return best;
}

// The sums of a pixel and its right neighbour, below 25 * 255 * 127 < 2^20.
static void two_pixels(const uint8_t *image, const int8_t *w, int32_t sums[2]) {
  int32_t left = 0, right = 0;
#define TAP(i) left += w[i] * p[i], right += w[i] * p[i + 1];
  for (int ky = 0; ky < K; ky++, w += K) {
    const uint8_t *p = image + ky * ROW;
    TAP(0) TAP(1) TAP(2) TAP(3) TAP(4)
  }
  sums[0] = left, sums[1] = right;
}

static void conv1(const uint8_t *image) {
  uint8_t *padded = scratch.conv1.image, *out = unit1;
  for (int i = 0; i < PADDED; i++) padded[i] = 0;
  for (int y = 0; y < SIDE; y++)
    for (int x = 0; x < SIDE; x++) padded[(y + PAD) * ROW + x + PAD] = *image++;
  for (int y = 0; y < P1; y++)
    for (int x = 0; x < P1; x++) {
      uint32_t codes[2] = {0, 0};
      for (int c = 0; c < C1; c++, out++) {
        const uint8_t *p = padded + 2 * y * ROW + 2 * x;
        int32_t sums[4];
        two_pixels(p, conv1_weights + c * K * K, sums);
        two_pixels(p + ROW, conv1_weights + c * K * K, sums + 2);
        int pixel = largest(sums), level = 0;
        int32_t sum = sums[pixel] - conv1_start[c];
        while (sum >= 0 && ++level < CONV1_TOP + 2) sum -= conv1_rises[c * (CONV1_TOP + 1) + level - 1];
        *out = unit(level, CONV1_TOP, pixel);
        for (int i = 0; i < PLANES2; i++) codes[i] = codes[i] << 2 | (*out >> 2 * i & 3);
      }
      for (int i = 0; i < PLANES2; i++) scratch.conv1.codes[i][y * P1 + x] = (uint16_t)codes[i];
    }
}

// 4-bit weights times x. An entry of x is one code, or those of two pixels side by side in 16 bits each: then the two sums
// share a word, too, and export_c sees to it that 16 bits hold them.
static uint32_t dot(const uint16_t *w, const uint32_t *x, int pieces) {
  uint32_t sum = 0;
#define TERM sum += (uint32_t)((int32_t)word >> 28) * *x++, word <<= 4;
  for (; pieces; pieces--) {
    uint32_t word = (uint32_t)*w++ << 16;
    TERM TERM TERM TERM
  }
  return sum;
}

// Ternary weights need no product: of sixteen (01 is 1, 11 is -1) a mask of those that count, and one of those below 0.
static void unpack(const uint16_t *w, int pieces) {
  for (uint32_t *to = masks; pieces > 0; pieces -= 2) {
    uint32_t word = (uint32_t)*w++ << 16;
    if (pieces > 1) word |= *w++;
    *to++ = (word & 0x55555555) * 3;
    *to++ = (word >> 1 & 0x55555555) * 3;
  }
}

// The codes in x under the masks, summed, plane by plane. What subtracts is inverted, and so adds 3 - code; `start` knows
// of these 3s. Neighbours are added, fields of 2 bits to 4, to 8, and by a product to 32: a word's sum is at most 48.
static int32_t ternary(const uint32_t *x, int words, int planes) {
  uint32_t sum = 0;
  for (int plane = 0; plane < planes; plane++) {
    const uint32_t *mask = masks, *end = x + words;
    do {
      uint32_t fields = (*x++ & mask[0]) ^ mask[1];
      fields = (fields & 0x33333333) + (fields >> 2 & 0x33333333);
      fields = (fields + (fields >> 4)) & 0x0f0f0f0f;
      sum += fields * 0x01010101 >> 24 << 2 * plane;
      mask += 2;
    } while (x < end);
  }
  return (int32_t)sum;
}

// The codes under the kernel in the order of its weights, rows, columns, channels: for each of four pixels, or (not ternary)
// six rows of five columns, each code beside its right neighbour's; what the lower pixels see begins one row later.
static void gather(int y, int x) {
  uint32_t *to = scratch.patch;
  for (int i = 0; CONV2_TERNARY && i < 4 * PLANES2; i++, to += WORDS2) {
    const uint16_t *in = scratch.conv1.codes[i % PLANES2] + (2 * y + i / PLANES2 / 2) * P1 + 2 * x + i / PLANES2 % 2;
    for (int ky = 0, k = 0; ky < K; ky++, in += P1)
      for (int kx = 0; kx < K; kx++, k++) to[k / 2] = to[k / 2] << 16 | in[kx];
    to[WORDS2 - 1] <<= 16;  // 25 halves
  }
  for (int row = 0; !CONV2_TERNARY && row <= K; row++) {
    const uint8_t *in = unit1 + ((2 * y + row) * P1 + 2 * x) * C1;
    for (int i = 0; i < K * C1; i++) *to++ = (in[i] & CODE) | (uint32_t)(in[i + C1] & CODE) << 16;
  }
}

static void conv2(int y, int x) {
  gather(y, x);
  for (int c = 0; c < C2; c++) {
    const uint16_t *w = conv2_weights + c * PIECES2;
    int32_t sums[4];
    if (CONV2_TERNARY) unpack(w, PIECES2);
    for (int i = 0; CONV2_TERNARY && i < 4; i++) sums[i] = ternary(scratch.patch + i * PLANES2 * WORDS2, WORDS2, PLANES2);
    for (int i = 0; !CONV2_TERNARY && i < 4; i += 2) {
      uint32_t both = dot(w, scratch.patch + i / 2 * K * C1, PIECES2);
      sums[i] = (int16_t)(both & 0xffff);
      sums[i + 1] = (int16_t)((both - (uint32_t)sums[i]) >> 16);
    }
    int pixel = largest(sums);
    unit2[(c * P2 + y) * P2 + x] = climb(sums[pixel] - conv2_start[c], conv2_rises + c * (CONV2_TOP + 1), CONV2_TOP, pixel);
  }
}

static void dense(const uint8_t *in, int inputs, int planes, const uint16_t *w, int is_ternary, const int16_t *start,
                  const rise *rises, int top, uint8_t *out, int outputs) {
  uint32_t *x = scratch.codes;
  int pieces = PIECES(inputs, is_ternary), words = (inputs + 15) / 16;
  for (int i = 0; !is_ternary && i < inputs; i++) x[i] = in[i] & CODE;
  for (int plane = 0; is_ternary && plane < planes; plane++, x += words) {
    for (int i = 0; i < inputs; i++) x[i / 16] = x[i / 16] << 2 | (in[i] >> 2 * plane & 3);
    if (inputs % 16) x[words - 1] <<= 32 - inputs % 16 * 2;
  }
  for (; outputs; outputs--, w += pieces, rises += top + 1) {
    if (is_ternary) unpack(w, pieces);
    int32_t sum = is_ternary ? ternary(scratch.codes, words, planes) : (int32_t)dot(w, scratch.codes, pieces);
    *out++ = climb(sum - *start++, rises, top, 0);
  }
}

int saq_classify(const uint8_t image[SAQ_PIXELS], int32_t logits[SAQ_CLASSES]) {
  conv1(image);
  for (int y = 0; y < P2; y++)
    for (int x = 0; x < P2; x++) conv2(y, x);
  dense(unit2, FLAT, PLANES(CONV2_TOP, 1), dense1_weights, DENSE1_TERNARY, dense1_start, dense1_rises, DENSE1_TOP, unit3, D1);
  dense(unit3, D1, PLANES(DENSE1_TOP, 1), dense2_weights, DENSE2_TERNARY, dense2_start, dense2_rises, DENSE2_TOP, unit4, D2);
  const int8_t *w = dense3_weights;
  int best = 0;
  int64_t highest = INT64_MIN;
  for (int j = 0; j < SAQ_CLASSES; j++) {
    logits[j] = dense3_bias[j];
    for (int i = 0; i < D2; i++) logits[j] += *w++ * (int32_t)(unit4[i] & CODE);
    int64_t score = (int64_t)logits[j] * dense3_multipliers[j];  // 24 bits times 39 at most
    if (score > highest) highest = score, best = j;
  }
  return best;
}

// --------------------------------------------------------------------------------------------------------- backward
static void shift(int32_t *a, int n, int down) {  // rounds; a shifted negative number keeps its sign, whatever C says
  for (int i = 0; i < n; i++) a[i] = (a[i] + ((int32_t)1 << down >> 1)) >> down;
}

// Brings the largest magnitude to 15 bits, also if it is rounded up; returns by how many bits it was shifted.
static int narrow(int32_t *a, int n) {
  int down = 0;
  for (int i = 0; i < n; i++)
    while ((a[i] < 0 ? -a[i] : a[i]) >> down >= INT16_MAX) down++;
  shift(a, n, down);
  return down;
}

// Back through an activation and the scale of each channel, at most 2^15: 15 bits become 30, and 15 again.
static int through(int32_t *a, const uint8_t *units, int stride, int mask, const uint16_t *scale, int channels, int per) {
  int n = channels * per;
  for (int i = 0; i < n; i++)
    if (!(units[i * stride] & mask)) a[i] = 0;
  int down = narrow(a, n);
  for (int i = 0; channels; channels--, scale++)
    for (int j = 0; j < per; j++) a[i++] *= *scale;
  return down + narrow(a, n);
}

// Back through a dense layer: 15 bits times 7 times at most 497 outputs is below 2^27.
static void back(int32_t *to, int inputs, const int32_t *gradient, int outputs, const uint16_t *w, int is_ternary) {
  int bits = BITS(is_ternary), pieces = PIECES(inputs, is_ternary);
  for (int i = 0; i < inputs + SPARE; i++) to[i] = 0;
  for (; outputs; outputs--, gradient++, w += pieces) {
    int32_t v = *gradient, *a = to;
    for (int i = 0; v && i < pieces; i++) {
      uint32_t word = (uint32_t)w[i] << 16;
      for (int k = 0; k < 16; k += bits, word <<= bits) *a++ += v * ((int32_t)word >> (32 - bits));
    }
  }
}

// Back through a convolution and its pooling: adds v times the kernel where it stood for the window's largest pixel. One
// pixel lies under at most 9 windows: 15 bits times 9 * 7 times at most 19 channels, or 9 * 127 times 28, is below 2^30.
static void spread(int32_t *plane, int width, int y, int x, int pixel, int32_t v, const int8_t *w) {
  plane += (2 * y + pixel / 2) * width + 2 * x + pixel % 2;
#define ADD(i) to[i] += v * w[i];
  for (int ky = 0; ky < K; ky++, w += K) {
    int32_t *to = plane + ky * width;
    ADD(0) ADD(1) ADD(2) ADD(3) ADD(4)
  }
}

static void back_conv2(int32_t *plane, int c) {
  for (int i = 0; i < P1 * P1; i++) plane[i] = 0;
  for (int o = 0, i = 0; o < C2; o++) {
    int8_t kernel[K * K];
    for (int k = 0, bit = c * BITS2; k < K * K; k++, bit += C1 * BITS2) {
      uint32_t word = (uint32_t)conv2_weights[o * PIECES2 + bit / 16] << (16 + bit % 16);
      kernel[k] = (int8_t)((int32_t)word >> (32 - BITS2));
    }
    for (int y = 0; y < P2; y++)
      for (int x = 0; x < P2; x++, i++)
        if (scratch.back.gradient[i]) spread(plane, P1, y, x, unit2[i] >> PIXEL & 3, scratch.back.gradient[i], kernel);
  }
}

int saq_map(int target, int passing, int32_t map[SAQ_MAP]) {
  int mask = passing ? POSITIVE : UNCLIPPED, lowest = EXPONENT;
  int32_t *other = map + SAQ_MAP / 2, *plane = scratch.back.plane, any = 0;
  for (int j = 0; j < D2; j++) map[j] = (int32_t)dense3_weights[target * D2 + j] * dense3_scale[target];
  lowest += through(map, unit4, 1, mask, dense2_scale, D2, 1);
  back(other, D1, map, D2, dense2_weights, DENSE2_TERNARY);
  lowest += through(other, unit3, 1, mask, dense1_scale, D1, 1);
  back(map, FLAT, other, D1, dense1_weights, DENSE1_TERNARY);
  lowest += through(map, unit2, 1, mask, conv2_scale, C2, P2 * P2);
  for (int i = 0; i < FLAT; i++) scratch.back.gradient[i] = (int16_t)map[i];
  for (int i = 0; i < PADDED; i++) map[i] = 0;
  int exponent = lowest;  // the map's: that of the channel with the largest so far, at most 27 above the lowest
  for (int c = 0; c < C1; c++) {
    back_conv2(plane, c);
    int own = lowest + through(plane, unit1 + c, C1, mask, conv1_scale + c, 1, P1 * P1);
    if (own > exponent) shift(map, PADDED, own - exponent), exponent = own;
    else shift(plane, P1 * P1, exponent - own);
    for (int y = 0, i = 0; y < P1; y++)
      for (int x = 0; x < P1; x++, i++)
        if (plane[i]) spread(map, ROW, y, x, unit1[i * C1 + c] >> PIXEL & 3, plane[i], conv1_weights + c * K * K);
  }
  for (int y = 0, i = 0; y < SIDE; y++)  // without the padding
    for (int x = 0; x < SIDE; x++, i++) any |= map[i] = map[(y + PAD) * ROW + x + PAD];
  return any ? exponent : SAQ_DEAD;
}
