// The network's kernels for a CPU, forward and backward, behind a plain C interface.
//
// Built on first use (build.py) for the instruction set of the machine, called through ctypes
// (ops.py). Everything is computed in float32; tensors are float32 or bfloat16. Every function
// returns 0, or 1 where no memory was left. Results do not depend on the number of threads.
#include "kernels.h"
#include "pointwise.h"
#include "ssd.h"
#include "wkv.h"

#define EXPORT __attribute__((visibility("default")))

extern "C" {
EXPORT int twin_abi(void) { return 1; }
EXPORT int twin_lanes(void) { return L; }
EXPORT int twin_wkv_forward(const Wkv* a) { return wkv_forward(*a); }
EXPORT int twin_wkv_backward(const Wkv* a) { return wkv_backward(*a); }
EXPORT int twin_ssd_forward(const Ssd* a) { return ssd_run(*a, false); }
EXPORT int twin_ssd_backward(const Ssd* a) { return ssd_run(*a, true); }
EXPORT int twin_norm_forward(const Norm* a) { return norm_forward(*a); }
EXPORT int twin_norm_backward(const Norm* a) { return norm_backward(*a); }
EXPORT int twin_gate_forward(const Gate* a) { return gate_forward(*a); }
EXPORT int twin_gate_backward(const Gate* a) { return gate_backward(*a); }
EXPORT int twin_relu2_forward(const Flat* a) { return relu2_forward(*a); }
EXPORT int twin_relu2_backward(const Flat* a) { return relu2_backward(*a); }
}
