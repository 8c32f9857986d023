#!/bin/bash
# The whole `knarr up` in a virtual machine of Debian's kernel with nothing but cgroup v2, under plain qemu without
# KVM. One command, a verdict a step, not zero when one failed:
#
#   e2e/vm/vm.sh                          target/debug/knarr, or $KNARR_BIN
#   KNARR_OLD=path e2e/vm/vm.sh           starts with that build and upgrades to the other while pods run
#   PHASES="1 2" e2e/vm/vm.sh             only some of the boots, in order (2 needs 1)
#   SUITE="pods volumes" e2e/vm/vm.sh     which cases of the black-box suite the last boot runs
#
# Boot 1: limits, OOM kills, pids limits, exec, probes, volumes; an upgrade under running pods; the power goes off.
# Boot 2, over the same disk: what ran runs again with its data; `down` leaves nothing. Boot 3: the suite's cases.
# What runs inside stands in guest.sh. Nothing of this machine is touched; the disk is a file that goes at the end.
#
# Needs Debian's qemu-system-x86, e2fsprogs, bsdutils, busybox-static, kmod, iproute2, nftables, curl, util-linux, and
# linux-image-cloud-amd64 or apt to fetch it; kubectl ($KUBECTL); cargo.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
. "$here/qemu.sh"
# Seconds that one boot may take.
limit=${LIMIT:-2400}
target=$(cd "$repository" && cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
# With a target of cargo's configuration its name stands between.
new=${KNARR_BIN:-$(ls -t "$target"/debug/knarr "$target"/*/debug/knarr 2>/dev/null | head -n 1 || true)}
new=${new:-$target/debug/knarr}
old=${KNARR_OLD:-$new}
kubectl=${KUBECTL:-$(ls /usr/lib/google-cloud-sdk/bin/kubectl.1.* 2>/dev/null | sort -V | tail -n 1)}
kubectl=${kubectl:-$(command -v kubectl)}
for file in "$new" "$old" "$kubectl"; do
  [ -x "$file" ] || { echo "$file is missing" >&2; exit 1; }
done
work=$(mktemp -d)
trap clean_up EXIT
trap 'exit 1' INT TERM
find_kernel

# The disk: busybox, the suite's tools, the kernel's modules that are needed. NVMe and ext4 are built into that
# kernel, so no initramfs is.
root=$work/root
root_of_busybox "$root"
bring "$root" script stty env timeout cat cut sort uniq readlink ls cp find grep unshare nsenter lsns mount umount \
  setpriv ip nft curl truncate losetup mkswap blkid mkfs.ext4 fsck fsck.ext4
# busybox's of the same names would be found before them.
rm -f "$root"/usr/bin/{losetup,mkswap,blkid,fsck}
install "$(readlink -f /bin/sh)" "$root/usr/bin/sh"
version=${modules##*/}
# The kernel loads modules by /sbin/modprobe.
ln -sf ../bin/busybox "$root/usr/sbin/modprobe"
for name in overlay veth dummy tun loop br_netfilter nf_tables $(find "$modules" -name 'nft_*.ko' -printf '%f '); do
  name=${name%.ko}
  /sbin/modprobe --show-depends --dirname "${modules%/lib/modules/*}" --set-version "$version" "$name" 2>/dev/null ||
    echo "this kernel has no module $name" >&2
done | sed -n "s|^insmod .*/$version/\([^ ]*\).*|\1|p" | sort -u > "$work/modules"
mkdir -p "$root/lib/modules/$version"
(cd "$modules" && xargs -a "$work/modules" cp --parents -t "$root/lib/modules/$version")
cp "$modules"/modules.{builtin,order} "$root/lib/modules/$version/"
/sbin/depmod -b "$root" "$version" 2>/dev/null
cp "$kubectl" "$root/usr/bin/kubectl"
for binary in old new; do
  cp "${!binary}" "$root/usr/bin/knarr-$binary"
  strip "$root/usr/bin/knarr-$binary"
done
# Another build by its bytes at least; an appended section is not loaded.
[ "$old" != "$new" ] || printf 'another build' >> "$root/usr/bin/knarr-new"
# The suite, its image and its examples, where it looks for them.
(cd "$repository" && KNARR_BUSYBOX_TO=$root/busybox.tar cargo run --quiet -p knarr-e2e --example busybox)
case " ${PHASES:=1 2 3} " in *" 3 "*)
  suite=$(cd "$repository" && cargo test -p knarr-e2e --test main --no-run --message-format json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*\/main-[^"]*\)".*/\1/p' | tail -n 1)
  [ -n "$suite" ] || { echo "the suite does not build" >&2; exit 1; }
  install -D "$suite" "$root/suite/debug/deps/suite"
  mkdir -p "$root$repository/e2e"
  cp -r "$repository/examples" "$root$repository/"
esac
install -m 755 "$here/guest.sh" "$root/guest.sh"
: > "$root/etc/resolv.conf"
truncate -s 3G "$work/disk"
mkfs.ext4 -q -d "$root" "$work/disk"
rm -r "$root"

verdict=0
for phase in $PHASES; do
  begun=$SECONDS
  words="phase=$phase suite=$(echo "${SUITE:-pods:: eviction:: volumes:: streams::}" | tr ' ' ,)"
  power_on -cpu max -smp 2 -m 3072 \
    -drive "file=$work/disk,format=raw,if=none,id=disk,cache=writethrough" -device nvme,drive=disk,serial=disk \
    -append "console=ttyS0 quiet panic=-1 no_timer_check root=/dev/nvme0n1 rw init=/guest.sh $words" ||
    verdict=1
  grep -a "^step: " "$work/console" >> "$work/verdicts" || true
  if grep -aq "phase $phase: passed" "$work/console"; then
    echo "step: ok: phase $phase in $((SECONDS - begun)) s" >> "$work/verdicts"
  else
    echo "step: FAILED: phase $phase in $((SECONDS - begun)) s" >> "$work/verdicts"
    verdict=1
    break
  fi
done
echo
echo "Verdicts on cgroup v2, $version:"
sed 's/^step: /  /' "$work/verdicts"
exit $verdict
