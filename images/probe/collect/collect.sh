# Copy programs, with the libraries and the loader they need, to a folder that becomes a root filesystem.
# Arguments: the folder, then the programs' names. Runs inside a root filesystem in which they are installed.
out=$1; shift

mkdir -p "$out/usr/bin" "$out/usr/lib" "$out/usr/lib64" "$out/usr/sbin" "$out/etc" "$out/root" \
    "$out/dev" "$out/proc" "$out/sys" "$out/run" "$out/tmp" "$out/var/tmp"
chmod 1777 "$out/tmp" "$out/var/tmp"
for name in bin sbin lib lib64; do
    ln -s "usr/$name" "$out/$name"
done

# Where /bin and /lib are links, a path with and one without /usr must lead to the same file.
take() {
    path=$(readlink -f "$1")
    [ -e "$out$path" ] || cp -a --parents "$path" "$out"
    case $1 in
        /bin/* | /sbin/* | /lib/* | /lib64/*) alias=/usr$1 ;;
        *) alias=$1 ;;
    esac
    [ "$alias" = "$path" ] || { mkdir -p "$out${alias%/*}"; ln -sf "$path" "$out$alias"; }
}

libgcc=
for name in "$@"; do
    program=$(command -v "$name" || :)
    case $program in
        /*) ;;
        # The shell has a built-in of this name; the program is needed.
        *) program=/usr/bin/$name ;;
    esac
    [ -x "$program" ] || { echo "collect: there is no $name here" >&2; exit 1; }
    take "$program"
    libraries=$(ldd "$program" | sed -n 's/.*=> \(\/[^ ]*\).*/\1/p; s/^[[:space:]]*\(\/[^ ]*\) (.*/\1/p')
    cancels= libc=
    for file in "$program" $libraries; do
        take "$file"
        case $file in
            */libc.so.6) libc=$file ;;
            *) ! grep -q pthread_cancel "$file" || cancels=yes ;;
        esac
    done
    # The C library loads it when a thread is cancelled, as by iperf3 since 3.16. ldd does not list it.
    [ -z "$cancels" ] || libgcc=${libc%/*}/libgcc_s.so.1
done
[ -z "$libgcc" ] || take "$libgcc"

echo 'root:x:0:0:root:/root:/bin/sh' >"$out/etc/passwd"
echo 'root:x:0:' >"$out/etc/group"
echo 'hosts: files' >"$out/etc/nsswitch.conf"
chroot "$out" /bin/sh -c 'ip -V && iperf3 --version && ping -V && sleep 0'
