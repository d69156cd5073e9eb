// The costly parts of the network's forward and backward pass, fused: float32, one thread, channels last.
//
// A block is convolution, max pooling 2 x 2 and activation in one. What its backward pass needs of the forward pass is one
// byte for each output: which of the four pooled values won, and whether the activation passed it on, clipped it, or let
// nothing through. Three of four gradients of a convolution are zero behind pooling, and more behind the activation: the
// backward pass sums over the others only, and no tensor of the convolution's own size is ever written.
//
// The same bits from every compiler, whatever vectors it uses: each sum runs in one explicit order, one element of it in
// one lane; products are added by fma only where fma is written (compile with -ffp-contract=off, never with fast-math).
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __FMA__
#include <immintrin.h>
#endif

enum { SIDE = 28, K = 5, PAD = 2, C1 = 8, C2 = 16, P1 = 14, P2 = 5 };  // pixels, kernel, channels, pixels after pooling
enum { ROW = 40 };  // floats of a padded image's row: 28 + 2 * PAD, and room for a vector that starts in the last column
enum { DEAD, PASSED, CLIPPED };  // what the activation did

typedef float f8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t i8 __attribute__((vector_size(32), aligned(4), may_alias));

static inline f8 load(const float *p) { return *(const f8 *)p; }
static inline void store(float *p, f8 x) { *(f8 *)p = x; }
static inline f8 load_some(const float *p, int n) {  // 0 beyond n values
  f8 x = {0};
  for (int i = 0; n < 8 && i < n; i++) x[i] = p[i];
  return n < 8 ? x : load(p);
}
static inline void store_some(float *p, f8 x, int n) {
  if (n >= 8) store(p, x);
  for (int i = 0; n < 8 && i < n; i++) p[i] = x[i];
}
static inline f8 all(float x) { return (f8){x, x, x, x, x, x, x, x}; }
static inline f8 choose(i8 yes, f8 a, f8 b) { return (f8)(((i8)a & yes) | ((i8)b & ~yes)); }

static inline f8 fma8(f8 a, f8 b, f8 c) {
#ifdef __FMA__
  return (f8)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  for (int i = 0; i < 8; i++) c[i] = fmaf(a[i], b[i], c[i]);
  return c;
#endif
}

static inline f8 round8(f8 x) {  // half to even
#ifdef __FMA__
  return (f8)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  for (int i = 0; i < 8; i++) x[i] = rintf(x[i]);
  return x;
#endif
}

// Sixteen values: one vector of AVX512, or two of AVX2.
#ifdef __AVX512F__
enum { SIDE_BY_SIDE = 2, ROWS = 8 };  // outputs of a block, rows of a product at once: as many sums as registers hold
typedef __m512 f16;
static inline f16 load16(const float *p) { return _mm512_loadu_ps(p); }
static inline void store16(float *p, f16 x) { _mm512_storeu_ps(p, x); }
static inline f16 fma16(float a, f16 b, f16 c) { return _mm512_fmadd_ps(_mm512_set1_ps(a), b, c); }
#else
enum { SIDE_BY_SIDE = 1, ROWS = 4 };
typedef struct { f8 low, high; } f16;
static inline f16 load16(const float *p) { return (f16){load(p), load(p + 8)}; }
static inline void store16(float *p, f16 x) { store(p, x.low), store(p + 8, x.high); }
static inline f16 fma16(float a, f16 b, f16 c) { return (f16){fma8(all(a), b.low, c.low), fma8(all(a), b.high, c.high)}; }
#endif

static inline float sum8(f8 x) {
  float s = 0;
  for (int i = 0; i < 8; i++) s += x[i];
  return s;
}

// ------------------------------------------------------------------------------------------- pooling and activation

// levels: of PACT, 0 for ReLU, or below 0 for nothing at all. unit: the value of one unit of the convolution's sums, by channel, or NULL for 1.
// spacing: what one code of the output is worth, in the output.
typedef struct { float levels, alpha, spacing; const float *unit; } activation;

// Eight channels of one output: the largest of four sums (the first of equal ones; NaN if one is), scaled and activated.
static inline void pool_and_activate(const f8 sums[4], activation act, int channel, float *out, uint8_t *code) {
  f8 top = sums[0];
  i8 won = {0}, state;
  for (int j = 1; j < 4; j++) {
    i8 more = (sums[j] > top) | (sums[j] != sums[j]);
    won = (more & j) | (~more & won);
    top = choose(more, sums[j], top);
  }
  if (act.unit) top *= load(act.unit + channel);
  i8 dead = top <= 0.f;
  if (act.levels < 0) {
    state = (i8){0} + PASSED;
  } else if (act.levels > 0) {
    i8 clipped = top >= act.alpha;
    state = (clipped & CLIPPED) | (~clipped & ~dead & PASSED);
    top = round8(choose(dead, all(0), choose(clipped, all(act.alpha), top)) / (act.alpha / act.levels)) * act.spacing;
  } else {
    state = ~dead & PASSED;
    top = choose(dead, all(0), top);
  }
  store(out, top);
  won |= state << 2;
  for (int c = 0; c < 8; c++) code[c] = (uint8_t)won[c];
}

// What passes an image's block in one channel, of side x side outputs: where in the block's input, whose rows and columns
// lie `row` and `column` floats apart, and how large it is there; returns how many.
static inline int collect(const float *grad, const uint8_t *code, int side, int channels, int channel, const float *unit,
                          int row, int column, int *place, float *value) {
  const int corner[4] = {0, column, row, row + column};
  float factor = unit ? unit[channel] : 1.f;
  int k = 0;
  // What overlaps is taken far apart: a load from where two vectors were stored has to wait for both.
  for (int dy = 0; dy < 3; dy++)
    for (int dx = 0; dx < 5; dx++)
      for (int y = dy; y < side; y += 3)
        for (int x = dx; x < side; x += 5) {
          int at = (y * side + x) * channels + channel, won = code[at];
          place[k] = 2 * y * row + 2 * x * column + corner[won & 3];
          value[k] = grad[at] * factor;
          k += won >> 2 == PASSED;  // the next one overwrites what did not pass
        }
  return k;
}

// ----------------------------------------------------------------------------------------------------- first block

static void pad_image(const float *image, float padded[SIDE + 2 * PAD][ROW]) {
  for (int y = 0; y < SIDE; y++) memcpy(&padded[y + PAD][PAD], image + y * SIDE, SIDE * sizeof(float));
}

// images (n, 28, 28), weight (25, 8), bias (8) -> out (n, 14, 14, 8), code alike
void block1_forward(int n, const float *images, const float *weight, const float *bias, float levels, float alpha,
                    float spacing, const float *unit, float *out, uint8_t *code) {
  activation act = {levels, alpha, spacing, unit};
  float padded[SIDE + 2 * PAD][ROW] = {{0}};
  for (int b = 0; b < n; b++, images += SIDE * SIDE) {
    pad_image(images, padded);
    for (int y = 0; y < P1; y++)
      for (int x = 0; x < P1; x += 2, out += 2 * C1, code += 2 * C1) {  // two outputs: eight sums in registers
        f8 left[4], right[4];
        for (int j = 0; j < 4; j++) left[j] = right[j] = load(bias);
        for (int ky = 0; ky < K; ky++)
          for (int kx = 0; kx < K; kx++) {
            f8 w = load(weight + (ky * K + kx) * C1);
            const float *p = &padded[2 * y + ky][2 * x + kx];
            for (int j = 0; j < 4; j++) {
              left[j] = fma8(w, all(p[(j >> 1) * ROW + (j & 1)]), left[j]);
              right[j] = fma8(w, all(p[(j >> 1) * ROW + (j & 1) + 2]), right[j]);
            }
          }
        pool_and_activate(left, act, 0, out, code);
        pool_and_activate(right, act, 0, out + C1, code + C1);
      }
  }
}

// grad (n, 14, 14, 8), weight (8, 5, 8) with three columns of 0 -> images (n, 28, 28)
void block1_images(int n, const float *grad, const uint8_t *code, const float *weight, const float *unit, float *images) {
  int place[P1 * P1];
  float value[P1 * P1], padded[SIDE + 2 * PAD][ROW];
  for (int b = 0; b < n; b++, grad += P1 * P1 * C1, code += P1 * P1 * C1, images += SIDE * SIDE) {
    memset(padded, 0, sizeof padded);
    for (int c = 0; c < C1; c++) {
      int count = collect(grad, code, P1, C1, c, unit, ROW, 1, place, value);
      f8 w[K];
      for (int ky = 0; ky < K; ky++) w[ky] = load(weight + (c * K + ky) * 8);
      for (int i = 0; i < count; i++) {
        float *p = &padded[0][0] + place[i];
        f8 v = all(value[i]);
        for (int ky = 0; ky < K; ky++) store(p + ky * ROW, fma8(v, w[ky], load(p + ky * ROW)));
      }
    }
    for (int y = 0; y < SIDE; y++) memcpy(images + y * SIDE, &padded[y + PAD][PAD], SIDE * sizeof(float));
  }
}

// images (n, 28, 28) -> weight (8, 5, 8) with three columns of waste, bias (8)
void block1_weights(int n, const float *grad, const uint8_t *code, const float *images, const float *unit, float *weight,
                    float *bias) {
  int place[P1 * P1];
  float value[P1 * P1], padded[SIDE + 2 * PAD][ROW] = {{0}};
  memset(weight, 0, C1 * K * 8 * sizeof(float));
  memset(bias, 0, C1 * sizeof(float));
  for (int b = 0; b < n; b++, grad += P1 * P1 * C1, code += P1 * P1 * C1, images += SIDE * SIDE) {
    pad_image(images, padded);
    for (int c = 0; c < C1; c++) {
      int count = collect(grad, code, P1, C1, c, unit, ROW, 1, place, value);
      f8 w[K];
      float sum = 0;
      for (int ky = 0; ky < K; ky++) w[ky] = load(weight + (c * K + ky) * 8);
      for (int i = 0; i < count; i++) {
        const float *p = &padded[0][0] + place[i];
        f8 v = all(value[i]);
        sum += value[i];
        for (int ky = 0; ky < K; ky++) w[ky] = fma8(v, load(p + ky * ROW), w[ky]);
      }
      for (int ky = 0; ky < K; ky++) store(weight + (c * K + ky) * 8, w[ky]);
      bias[c] += sum;
    }
  }
}

// The sum of the gradients (n), n a multiple of 8, whose output was clipped.
float clipped(int n, const float *grad, const uint8_t *code) {
  f8 sum = all(0);
  for (int i = 0; i < n; i += 8) {
    i8 state;
    for (int c = 0; c < 8; c++) state[c] = code[i + c] >> 2;
    sum += choose(state == CLIPPED, load(grad + i), all(0));
  }
  return sum8(sum);
}

// ---------------------------------------------------------------------------------------------------- second block

// x (n, 14, 14, 8), weight (25 * 8, 16), bias (16) -> out (n, 25, 16), code alike
void block2_forward(int n, const float *x, const float *weight, const float *bias, float levels, float alpha, float spacing,
                    const float *unit, float *out, uint8_t *code) {
  activation act = {levels, alpha, spacing, unit};
  static const int corner[4] = {0, C1, P1 * C1, (P1 + 1) * C1};
  for (int b = 0; b < n; b++, x += P1 * P1 * C1, out += P2 * P2 * C2, code += P2 * P2 * C2)
    for (int at = 0; at < P2 * P2; at += SIDE_BY_SIDE) {
      f16 sum[SIDE_BY_SIDE][4];
      const float *from[SIDE_BY_SIDE];
      for (int s = 0; s < SIDE_BY_SIDE; s++) {
        int p = at + s < P2 * P2 ? at + s : at;  // beyond the last output: one again, not stored
        from[s] = x + (2 * (p / P2) * P1 + 2 * (p % P2)) * C1;
        for (int j = 0; j < 4; j++) sum[s][j] = load16(bias);
      }
      for (int ky = 0; ky < K; ky++)
        for (int i = 0; i < K * C1; i++) {
          f16 w = load16(weight + (ky * K * C1 + i) * C2);
          for (int s = 0; s < SIDE_BY_SIDE; s++)
            for (int j = 0; j < 4; j++) sum[s][j] = fma16(from[s][ky * P1 * C1 + i + corner[j]], w, sum[s][j]);
        }
      for (int s = 0; s < SIDE_BY_SIDE && at + s < P2 * P2; s++)
        for (int c = 0; c < C2; c += 8) {
          float sums[4][C2];
          for (int j = 0; j < 4; j++) store16(sums[j], sum[s][j]);
          f8 some[4] = {load(sums[0] + c), load(sums[1] + c), load(sums[2] + c), load(sums[3] + c)};
          pool_and_activate(some, act, c, out + (at + s) * C2 + c, code + (at + s) * C2 + c);
        }
    }
}

// grad (n, 25, 16), weight (16, 25, 8) -> x (n, 14, 14, 8)
void block2_inputs(int n, const float *grad, const uint8_t *code, const float *weight, const float *unit, float *x) {
  int place[P2 * P2];
  float value[P2 * P2];
  memset(x, 0, (size_t)n * P1 * P1 * C1 * sizeof(float));
  for (int b = 0; b < n; b++, grad += P2 * P2 * C2, code += P2 * P2 * C2, x += P1 * P1 * C1)
    for (int c = 0; c < C2; c++) {
      int count = collect(grad, code, P2, C2, c, unit, P1 * C1, C1, place, value);
      for (int ky = 0; ky < K; ky++) {
        f8 w[K];
        for (int kx = 0; kx < K; kx++) w[kx] = load(weight + ((c * K + ky) * K + kx) * C1);
        for (int i = 0; i < count; i++) {
          float *p = x + place[i] + ky * P1 * C1;
          f8 v = all(value[i]);
          for (int kx = 0; kx < K; kx++) store(p + kx * C1, fma8(v, w[kx], load(p + kx * C1)));
        }
      }
    }
}

// x (n, 14, 14, 8) -> weight (16, 25, 8), bias (16)
void block2_weights(int n, const float *grad, const uint8_t *code, const float *x, const float *unit, float *weight,
                    float *bias) {
  int place[P2 * P2];
  float value[P2 * P2];
  memset(weight, 0, C2 * K * K * C1 * sizeof(float));
  memset(bias, 0, C2 * sizeof(float));
  for (int b = 0; b < n; b++, grad += P2 * P2 * C2, code += P2 * P2 * C2, x += P1 * P1 * C1)
    for (int c = 0; c < C2; c++) {
      int count = collect(grad, code, P2, C2, c, unit, P1 * C1, C1, place, value);
      for (int i = 0; i < count; i++) bias[c] += value[i];
      for (int ky = 0; ky < K; ky++) {
        float *into = weight + (c * K + ky) * K * C1;
        f8 w[K];
        for (int kx = 0; kx < K; kx++) w[kx] = load(into + kx * C1);
        for (int i = 0; i < count; i++) {
          const float *p = x + place[i] + ky * P1 * C1;
          f8 v = all(value[i]);
          for (int kx = 0; kx < K; kx++) w[kx] = fma8(v, load(p + kx * C1), w[kx]);
        }
        for (int kx = 0; kx < K; kx++) store(into + kx * C1, w[kx]);
      }
    }
}

// ---------------------------------------------------------------------------------------------------- dense layers

// out (m, n) = start (n) or 0, plus a (m, k) times b (k, n); each sum runs over k in order. The strides, in floats, say
// how far the next row and the next column of a and of b lie. panel: room for k * 16 floats.
void product(int m, int n, int k, const float *a, int a_row, int a_column, const float *b, int b_row, int b_column,
             const float *start, float *panel, float *out) {
  for (int column = 0; column < n; column += 16) {
    int width = n - column < 16 ? n - column : 16;
    float first[16] = {0};
    for (int j = 0; j < width && start; j++) first[j] = start[column + j];
    for (int i = 0; i < k; i++)
      for (int j = 0; j < 16; j++)
        panel[i * 16 + j] = j < width ? b[(ptrdiff_t)i * b_row + (ptrdiff_t)(column + j) * b_column] : 0.f;
    for (int row = 0; row < m; row += ROWS) {
      f16 sum[ROWS];
      const float *from[ROWS];
      for (int r = 0; r < ROWS; r++) {  // beyond the last row: the last one again, not stored
        from[r] = a + (ptrdiff_t)(row + r < m ? row + r : m - 1) * a_row;
        sum[r] = load16(first);
      }
      for (int i = 0; i < k; i++) {
        f16 bi = load16(panel + i * 16);
        for (int r = 0; r < ROWS; r++) sum[r] = fma16(from[r][(ptrdiff_t)i * a_column], bi, sum[r]);
      }
      for (int r = 0; r < ROWS && row + r < m; r++) {
        float sums[16];
        store16(sums, sum[r]);
        memcpy(out + (ptrdiff_t)(row + r) * n + column, sums, width * sizeof(float));
      }
    }
  }
}

// -------------------------------------------------------------------------------------------------- quantized weights

// weight (rows, n) -> scale (rows), the value of one code, and values (rows, n) on the lattice. top: the largest code.
// c1, c2: of SAWB's clip; c1 = 0: the largest magnitude is the clip. Sums in eight lanes, then over the lanes.
void quantize(int rows, int n, const float *weight, float c1, float c2, float top, float *scale, float *values) {
  for (int r = 0; r < rows; r++, weight += n, values += n) {
    f8 largest = all(0), sum = all(0), square = all(0);
    for (int i = 0; i < n; i += 8) {
      f8 w = load_some(weight + i, n - i);
      f8 m = choose(w < 0.f, -w, w);
      largest = choose((m > largest) | (m != m), m, largest), sum += m, square = fma8(m, m, square);
    }
    float clip = 0, mean = sum8(sum) / n;
    for (int i = 0; i < 8; i++) clip = largest[i] > clip || largest[i] != largest[i] ? largest[i] : clip;
    if (c1) {
      float estimate = fmaf(c1, sqrtf(sum8(square) / n), c2 * mean);
      if (estimate >= mean && estimate < clip) clip = estimate;
    }
    f8 step = all(clip / top > 0 ? clip / top : 1.f), high = all(top);
    for (int i = 0; i < n; i += 8) {
      f8 code = round8(load_some(weight + i, n - i) / step);
      store_some(values + i, choose(code > high, high, choose(code < -high, -high, code)) * step, n - i);
    }
    scale[r] = step[0];
  }
}
