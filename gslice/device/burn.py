"""A kernel whose time depends on nothing but how many multiprocessors run it.

As PTX, which every driver compiles itself, so that no toolkit is needed.
"""

from __future__ import annotations

THREADS = 1024
BLOCKS_PER_SM = 16  # of the whole GPU: the last, partly filled wave hardly shows
TURNS = 20_000
ROUNDS = 7

ENTRY = "gslice_burn"
PTX = """
.version 7.0
.target sm_70
.address_size 64

.visible .entry gslice_burn(.param .u64 sink, .param .u32 turns)
{
    .reg .pred %again, %never;
    .reg .f32 %value, %half;
    .reg .u32 %turn, %turns;
    .reg .u64 %sink;

    ld.param.u64 %sink, [sink];
    ld.param.u32 %turns, [turns];
    mov.u32 %turn, 0;
    mov.f32 %value, 0f3F800000;
    mov.f32 %half, 0f3F000000;
LOOP:
    fma.rn.f32 %value, %value, %half, %half;
    add.u32 %turn, %turn, 1;
    setp.lt.u32 %again, %turn, %turns;
    @%again bra LOOP;
    setp.lt.f32 %never, %value, 0f00000000;
    @%never st.global.f32 [%sink], %value;
    ret;
}
"""
"""Arithmetic alone; the store is never reached, and keeps the compiler from dropping the loop."""
