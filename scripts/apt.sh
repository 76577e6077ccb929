# SPDX-License-Identifier: GPL-2.0
# Sourced: apt with a configuration of its own in the cache, so that the system's
# list of sources is neither used nor changed, and dpkg does not come to know of
# another architecture.
# shellcheck shell=bash disable=SC2154

# debian_mirror ARCHIVE: the mirror of "debian" or "debian-security" that this
# machine uses anyway.
debian_mirror() {
	local mirror
	mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null |
		 grep -oE "(https?|file|mirror[^ :]*)://[^] ]+/$1/?( |\$)" | head -n 1 | tr -d ' ' || :)
	echo "${mirror:-http://deb.debian.org/$1}"
}

# apt_sources NAME "MIRROR SUITE"...: what apt_private sees from here on, with the
# keys that this machine trusts. Reads their lists of packages.
apt_sources() {
	apt_dir=$cache/apt/$1
	shift
	mkdir -p "$apt_dir"/{lists,archives}/partial
	printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s main\n' "$@" \
		>"$apt_dir/sources.list"
	apt_private apt-get -qq update >&2
}

# apt_private COMMAND...: one of apt's; after set_arch, for that architecture.
apt_private() {
	"$@" -o Dir::Etc::sourcelist="$apt_dir/sources.list" -o Dir::Etc::sourceparts=- \
	     -o Dir::State::lists="$apt_dir/lists" -o Dir::Cache="$apt_dir" \
	     ${debian_arch:+-o APT::Architecture="$debian_arch"} \
	     -o APT::Sandbox::User="$(id -un)" -o APT::Get::List-Cleanup=0 \
	     -o APT::Update::Error-Mode=any
}
