#!/bin/sh
# Runs the tests of this crate on a host with cgroup v2 and an older kernel: Debian's cloud kernel under plain
# qemu, booted from an initramfs that holds the static test program, busybox and the overlay module.
#
#   crates/runtime/tests/v2-host.sh [filter]
#
# Needs Debian's packages qemu-system-x86, cpio and busybox-static, and apt for the kernel's package.
set -eu
cd "$(dirname "$0")/../../.."
program=$(cargo test -p knarr-runtime --test main --no-run --message-format json 2>/dev/null |
  sed -n 's/.*"executable":"\([^"]*\/main-[^"]*\)".*/\1/p' | tail -n 1)
test -n "$program" || { echo "the test program does not build" >&2; exit 1; }

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
(
  cd "$dir"
  kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p' | head -n 1)
  apt-get download "$kernel" >/dev/null 2>&1
  dpkg-deb -x ./*.deb kernel
  mkdir -p root/bin root/usr/bin root/proc root/sys root/dev root/tmp root/new root/etc
  cp /usr/bin/busybox root/bin/
  ln -s /bin/busybox root/usr/bin/busybox
  for name in sh mount mkdir cp insmod switch_root cat poweroff sed; do ln -s busybox root/bin/$name; done
  cp "$(find kernel -name overlay.ko)" root/overlay.ko
  cp "$program" root/test
  strip root/test
  # The first root cannot be pivoted away from, so everything moves to a tmpfs.
  cat > root/init <<'INIT'
#!/bin/sh
mount -t tmpfs -o size=80% none /new
for name in bin usr test second overlay.ko etc; do cp -a /$name /new/; done
mkdir -p /new/proc /new/sys /new/dev /new/tmp
exec switch_root /new /second
INIT
  cat > root/second <<'INIT'
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
mount -t cgroup2 cgroup2 /sys/fs/cgroup
insmod /overlay.ko
RUST_BACKTRACE=0 /test $(sed 's/.*filter=//' /proc/cmdline) && echo all-passed-on-v2
poweroff -f
INIT
  chmod +x root/init root/second
  (cd root && find . | cpio -o -H newc --quiet) | gzip -1 > initramfs
  timeout 900 qemu-system-x86_64 -m 2048 -smp 2 -nographic -no-reboot \
    -kernel kernel/boot/vmlinuz-* -initrd initramfs \
    -append "console=ttyS0 quiet panic=-1 filter=${1:-}" | tee output
  grep -q all-passed-on-v2 output
)
