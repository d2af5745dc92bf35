# Sourced by .ci/run: a fresh clone as a stranger has it, at a path with spaces, outside of root's home, of a user who is not root
# and keeps files to himself, in an empty environment.
#
#   make_room          clone HEAD to "$ROOM", with ../shared beside it where this clone has one
#   in_room COMMAND    run there as that user
#   leave_room         remove it

ROOM_BASE=
ROOM=
ROOM_USER=trocar-ci

make_room() {
    ROOM_BASE=$(mktemp -d /var/tmp/trocar-ci.XXXXXX)
    chmod 755 "$ROOM_BASE"
    ROOM="$ROOM_BASE/a path with spaces/trocar"
    (
        umask 077
        mkdir -p "$ROOM_BASE/home" "${ROOM%/*}"
        git clone --quiet --no-hardlinks . "$ROOM"
        if [[ -d ../shared ]]; then cp -rL ../shared "${ROOM%/*}/shared"; fi
    )
    if [[ $EUID == 0 ]]; then
        id -u "$ROOM_USER" >/dev/null 2>&1 || useradd --no-create-home --home-dir /nonexistent "$ROOM_USER"
        chown -R "$ROOM_USER": "$ROOM_BASE/home" "${ROOM%/*}"
    fi
}

in_room() {
    local as=()
    if [[ $EUID == 0 ]]; then as=(runuser -u "$ROOM_USER" --); fi
    # PATH has the system's own Python first, whatever else this machine has.
    (cd "$ROOM" && "${as[@]}" env -i HOME="$ROOM_BASE/home" PATH=/usr/bin:/bin LANG=C.UTF-8 CI=true \
        bash -c 'umask 077; exec "$@"' in-room "$@")
}

leave_room() {
    if [[ -n $ROOM_BASE ]]; then rm -rf "$ROOM_BASE"; fi
}
