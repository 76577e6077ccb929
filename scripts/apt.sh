# SPDX-License-Identifier: GPL-2.0
# Sourced: apt with a configuration of its own in the cache, so that the system's
# list of sources is neither used nor changed, and no other architecture is added
# to dpkg.
# shellcheck shell=bash disable=SC2154

# debian_mirror ARCHIVE: this machine's mirror of "debian" or "debian-security".
debian_mirror() {
	local mirror
	mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null |
		 grep -oE "(https?|file|mirror[^ :]*)://[^] ]+/$1/?( |\$)" | head -n 1 | tr -d ' ' || :)
	echo "${mirror:-http://deb.debian.org/$1}"
}

# apt_sources NAME "MIRROR SUITE"...: sets the sources of apt_private, with the keys
# that this machine trusts, and updates their lists of packages.
apt_sources() {
	apt_dir=$cache/apt/$1
	shift
	mkdir -p "$apt_dir"/{lists,archives}/partial
	printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s main\n' "$@" \
		>"$apt_dir/sources.list"
	apt_private apt-get -qq update >&2
}

# apt_private COMMAND...: runs a command of apt; after set_arch, for that architecture.
apt_private() {
	"$@" -o Dir::Etc::sourcelist="$apt_dir/sources.list" -o Dir::Etc::sourceparts=- \
	     -o Dir::State::lists="$apt_dir/lists" -o Dir::Cache="$apt_dir" \
	     ${debian_arch:+-o APT::Architecture="$debian_arch"} \
	     -o APT::Sandbox::User="$(id -un)" -o APT::Get::List-Cleanup=0 \
	     -o APT::Update::Error-Mode=any
}
