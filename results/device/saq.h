// Class and saliency map of a picture of 28 x 28 bytes, from whole numbers alone: no float, no heap, no library. Compile
// saq.c beside model.h, the network; -Os is about as fast as -O2, since the inner loops are unrolled by hand.
//
//   int digit = saq_classify(picture, logits);  // picture: 784 bytes, row by row, 0 black to 255 white
//   int exponent = saq_map(digit, 1, map);      // of the picture that was classified last: 4 kB of static memory hold it
//   if (exponent != SAQ_DEAD) draw(map);        // what is above 0 speaks for the digit, what is below 0 against it
#ifndef SAQ_H
#define SAQ_H
#include <stdint.h>

enum { SAQ_SIDE = 28, SAQ_PIXELS = 784, SAQ_CLASSES = 10, SAQ_MAP = 1024, SAQ_DEAD = -32767 };

// Returns the class, 0 to 9. logits: the sums of the last layer; model.h has each class's scale.
int saq_classify(const uint8_t image[SAQ_PIXELS], int32_t logits[SAQ_CLASSES]);

// map[0..783], row by row, times 2 to the power of what is returned: the gradient of the logit of class `target`, 0 to 9,
// for the pixels, taken as numbers from 0 to 1. The rest of the 1024 is scratch. passing: where an activation is clipped
// the gradient stops (0: the straight-through one of training) or passes (1). Returns SAQ_DEAD, and zeros, if nothing
// reaches the picture.
int saq_map(int target, int passing, int32_t map[SAQ_MAP]);
#endif
