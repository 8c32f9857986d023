//! One program, two kinds of process: the daemon wants an allocator that is quick with many threads, a shim one
//! that dirties few pages. mimalloc keeps a page a size class and its own tables, four times what a shim needs.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{CStr, c_char, c_int};
use std::sync::atomic::{AtomicBool, Ordering};

/// The allocator `A` in the daemon, the C library's in the zygote and its shims.
pub struct ShimAware<A> {
    daemon: A,
}

impl<A> ShimAware<A> {
    /// With this allocator in the daemon.
    pub const fn new(daemon: A) -> Self {
        Self { daemon }
    }
}

/// Set before the first allocation, and never changed after it: what was allocated here must be freed here.
static SHIM: AtomicBool = AtomicBool::new(false);

/// The C library hands the arguments of the program to its initialisers; those with a number run in its order,
/// this one just before std's own and so before any Rust code.
#[used]
#[unsafe(link_section = ".init_array.00098")]
static DECIDE: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = decide;

extern "C" fn decide(count: c_int, args: *const *const c_char, _env: *const *const c_char) {
    if count > 0 {
        // SAFETY: the C library passes the argument vector, with `count` valid strings.
        let name = unsafe { CStr::from_ptr(*args) };
        SHIM.store(name.to_bytes() == crate::zygote::TITLE.as_bytes(), Ordering::Relaxed);
    }
}

// SAFETY: every call goes to one and the same allocator for the whole life of the process.
unsafe impl<A: GlobalAlloc> GlobalAlloc for ShimAware<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe { if SHIM.load(Ordering::Relaxed) { System.alloc(layout) } else { self.daemon.alloc(layout) } }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe {
            if SHIM.load(Ordering::Relaxed) {
                System.dealloc(pointer, layout);
            } else {
                self.daemon.dealloc(pointer, layout);
            }
        }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            if SHIM.load(Ordering::Relaxed) {
                System.alloc_zeroed(layout)
            } else {
                self.daemon.alloc_zeroed(layout)
            }
        }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            if SHIM.load(Ordering::Relaxed) {
                System.realloc(pointer, layout, size)
            } else {
                self.daemon.realloc(pointer, layout, size)
            }
        }
    }
}
