// The test bench: puts each picture of the file `pictures` (784 bytes each) through a network, and prints a line of numbers
// for each, hexadecimal: class and hash of the logits; return value and hash of the straight-through map, and of the map
// passed through; on a board also the ticks of the three calls and the bytes of stack. A board's first line has the ticks of
// ROUNDS rounds of a loop of two instructions, from which a tick's worth follows.
//
// One source for a Cortex-M, bare metal with semihosting, and, with -DHOST, for the machine that builds it, whose answers a
// board has to give.
#include "saq.h"

enum { PIXELS = 784, CLASSES = 10, MAP = 1024 };

static int32_t logits[CLASSES], map[MAP];  // before the map is made, its memory holds the picture

// --------------------------------------------------------------------------------------------- a board, or this machine

#ifdef HOST
#include <stdio.h>

static FILE *pictures;
static void print(const char *text) { fputs(text, stdout); }
static int next(void) { return fread(map, 1, PIXELS, pictures) == PIXELS; }
static uint32_t ticks(void) { return 0; }
static void paint(void) {}
static uint32_t painted_over(void) { return 0; }
#else
enum { OPEN = 1, PRINT = 4, READ = 6, EXIT = 0x18, DONE = 0x20026, FAILED = 0x20024 };  // semihosting, by Arm's numbers
enum { ROUNDS = 1000000 };
#define SYSTICK ((volatile uint32_t *)0xE000E010)  // control, reload, value
#define COPROCESSORS (*(volatile uint32_t *)0xE000ED88)
#define PAINT 0x5AC35AC3u

extern uint32_t stack_begin, stack_end, data_stored, data_begin, data_end, bss_begin, bss_end;
static int32_t pictures;

static int32_t ask(int32_t what, const void *with) {
  register int32_t r0 __asm("r0") = what;
  register const void *r1 __asm("r1") = with;
  __asm volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}
static void print(const char *text) { ask(PRINT, text); }
static void leave(uint32_t reason) {
  ask(EXIT, (const void *)reason);
  for (;;) {}
}
static void fault(void) {
  print("a fault: more stack than is left, or an address that is not there\n");
  leave(FAILED);
}
static int next(void) {
  const uint32_t read[] = {(uint32_t)pictures, (uint32_t)map, PIXELS};
  return ask(READ, read) == 0;  // bytes that were not read
}
static uint32_t ticks(void) { return 0xFFFFFF - SYSTICK[2]; }  // 24 bits, which it counts down

// Both in the frame of their caller, so that what is painted begins where its callees' stack does.
static inline __attribute__((always_inline)) uint32_t *top(void) {
  uint32_t *sp;
  __asm volatile("mov %0, sp" : "=r"(sp));
  return sp;
}
static inline __attribute__((always_inline)) void paint(void) {
  for (uint32_t *p = &stack_end; p < top(); p++) *p = PAINT;
}
static inline __attribute__((always_inline)) uint32_t painted_over(void) {
  uint32_t *p = &stack_end;
  if (*p != PAINT) fault();  // below it a microbit has nothing, which it notices by itself, other boards something
  while (p < top() && *p == PAINT) p++;
  return (uint32_t)(top() - p) * sizeof *p;
}
#endif

// ------------------------------------------------------------------------------------------------------------ pictures

static void number(uint32_t n) {  // without a division, which on a Cortex-M0 would be a function of the library's
  char text[10];
  for (int i = 0; i < 8; i++, n <<= 4) text[i] = "0123456789abcdef"[n >> 28];
  text[8] = ' ', text[9] = 0;
  print(text);
}

static uint32_t hash(const int32_t *values, int n) {  // FNV-1a, word by word
  uint32_t h = 2166136261u;
  while (n--) h = (h ^ (uint32_t)*values++) * 16777619u;
  return h;
}

static void picture(void) {
  uint32_t before[3], after[3], returned[3], hashes[3];
  paint();
  before[0] = ticks();
  int class = saq_classify((const uint8_t *)map, logits);
  after[0] = ticks();
  returned[0] = (uint32_t)class, hashes[0] = hash(logits, CLASSES);
  for (int passing = 0; passing < 2; passing++) {
    before[1 + passing] = ticks();
    returned[1 + passing] = (uint32_t)saq_map(class, passing, map);
    after[1 + passing] = ticks();
    hashes[1 + passing] = hash(map, PIXELS);
  }
  uint32_t stack = painted_over();
  for (int i = 0; i < 3; i++) number(returned[i]), number(hashes[i]);
#ifndef HOST
  for (int i = 0; i < 3; i++) number((after[i] - before[i]) & 0xFFFFFF);
  number(stack);
#else
  (void)before, (void)after, (void)stack;
#endif
  print("\n");
}

// --------------------------------------------------------------------------------------------------------------- start

#ifdef HOST
int main(void) {
  pictures = fopen("pictures", "rb");
  if (!pictures) return 1;
  while (next()) picture();
  return 0;
}
#else
void reset(void) {
  for (uint32_t *from = &data_stored, *to = &data_begin; to < &data_end;) *to++ = *from++;
  for (uint32_t *to = &bss_begin; to < &bss_end;) *to++ = 0;
#ifdef __ARM_FP
  COPROCESSORS |= 0xF << 20;  // the floating-point unit
  __asm volatile("dsb\n isb");
#endif
  SYSTICK[1] = 0xFFFFFF, SYSTICK[2] = 0, SYSTICK[0] = 5;  // QEMU's microbit has this timer, which the chip lacks
  while (!SYSTICK[2]) {}  // 0 until it begins
  uint32_t n = ROUNDS, from = ticks();
  __asm volatile("1: subs %0, #1\n bne 1b" : "+l"(n) : : "cc");
  number(ticks() - from), print("\n");

  const uint32_t open[] = {(uint32_t)"pictures", 1, 8};  // for reading, length of the name
  pictures = ask(OPEN, open);
  if (pictures < 0) leave(FAILED);
  while (next()) picture();
  leave(DONE);
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    &stack_begin, reset, fault, fault, fault, fault, fault, 0, 0, 0, 0, fault, fault, 0, fault, fault,
};
#endif
