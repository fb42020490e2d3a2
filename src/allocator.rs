//! How much freed memory the process keeps.

/// Lets glibc's allocator keep the pages of freed images, in buffers up to 32 MiB, and share them among threads; before any thread is
/// started.
///
/// By default it gives the pages of a buffer of some MiB back to the system at once and fetches new ones for the next, which takes
/// longer than many an operation, while eight heaps for each core hold what nobody needs. Measured (2,000 images of 512×512, 2 cores):
/// a tenth faster with half of the memory; mimalloc is no faster and takes three to four times as much.
pub fn keep_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Smaller buffers come from heaps; the greatest value there is.
        const MAPPED_FROM: libc::c_int = 32 << 20;
        /// A heap's end that is free gives back no less.
        const TRIMMED_FROM: libc::c_int = 256 << 20;
        let heaps = std::thread::available_parallelism().map_or(2, |cores| cores.get() as libc::c_int);
        #[expect(unsafe_code, reason = "a call of C that keeps three numbers")]
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
            libc::mallopt(libc::M_TRIM_THRESHOLD, TRIMMED_FROM);
            libc::mallopt(libc::M_ARENA_MAX, heaps);
        }
    }
}
