package sitecheck

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
)

// knowsListeners reports whether the system tells which sockets listen.
func knowsListeners() bool {
	_, err := os.Stat("/proc/self/net/tcp")
	return err == nil
}

// socket is a TCP socket that listens.
type socket struct {
	address netip.AddrPort
	inode   string
}

// systemListener looks for a listening socket that is not this process's own and that would
// get connections to the address.
func systemListener(address caddy.NetworkAddress) (by string, found bool) {
	own := socketsOf("self")
	if own == nil { // otherwise all would look like somebody else's
		return "", false
	}
	if address.IsUnixNetwork() {
		path, _, _ := strings.Cut(address.Host, "|")
		for _, inode := range listeningAt(path) {
			if !own[inode] {
				return processOf(inode), true
			}
		}
		return "", false
	}
	if address.StartPort == 0 || !strings.HasPrefix(address.Network, "tcp") {
		return "", false
	}
	for _, s := range listening() {
		if uint(s.address.Port()) == address.StartPort && !own[s.inode] && overlaps(address, s.address.Addr()) {
			return processOf(s.inode), true
		}
	}
	return "", false
}

// listeningAt returns the inodes of the sockets that listen at a socket file. Caddy removes
// a file that is there and makes its own, but the system still has the other one. What a
// relative path is in another process is not known.
func listeningAt(path string) (inodes []string) {
	if !filepath.IsAbs(path) {
		return nil
	}
	file, err := os.Open("/proc/self/net/unix")
	if err != nil {
		return nil
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		const accepts = "00010000"
		if len(fields) == 8 && fields[3] == accepts && fields[7] == path {
			inodes = append(inodes, fields[6])
		}
	}
	return inodes
}

// overlaps reports whether both an address of Caddy's and a listening one get connections to
// some IP address.
func overlaps(address caddy.NetworkAddress, other netip.Addr) bool {
	ip, err := netip.ParseAddr(address.Host)
	if address.Host == "localhost" {
		return other.IsUnspecified() || other.Unmap().IsLoopback()
	}
	other = other.Unmap()
	switch {
	case err != nil: // no host, or a name that may stand for any
		return true
	case ip.Unmap() == other:
		return true
	case ip.IsUnspecified():
		// :: gets IPv4 too; 0.0.0.0 gets no IPv6.
		return ip.Is6() || other.Is4() || other.IsUnspecified()
	}
	return other.IsUnspecified() && (other.Is6() || ip.Unmap().Is4())
}

// listening returns the TCP sockets that listen in this process's network.
func listening() (all []socket) {
	for _, name := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		file, err := os.Open(name)
		if err != nil {
			continue // such as without IPv6
		}
		lines := bufio.NewScanner(file)
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			const listen = "0A"
			if len(fields) < 10 || fields[3] != listen {
				continue
			}
			if address, ok := kernelAddress(fields[1]); ok {
				all = append(all, socket{address, fields[9]})
			}
		}
		_ = file.Close()
	}
	return all
}

// kernelAddress reads an address as the kernel writes it: words of four bytes in the
// machine's order, a colon, the port.
func kernelAddress(text string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(host)
	number, portErr := strconv.ParseUint(port, 16, 16)
	if err != nil || portErr != nil {
		return netip.AddrPort{}, false
	}
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 { // little-endian
		for i := 0; i+4 <= len(raw); i += 4 {
			slices.Reverse(raw[i : i+4])
		}
	}
	address, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(address, uint16(number)), ok
}

// mostProcesses bounds the search for the process of a socket.
const mostProcesses = 10_000

// processOf says which process has a socket, as far as this one may know.
func processOf(inode string) string {
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return ""
	}
	for _, p := range processes[:min(len(processes), mostProcesses)] {
		if _, err := strconv.Atoi(p.Name()); err != nil || !socketsOf(p.Name())[inode] {
			continue
		}
		name, err := os.ReadFile("/proc/" + p.Name() + "/comm")
		if err != nil {
			return fmt.Sprintf(" (process %s)", p.Name())
		}
		return fmt.Sprintf(" (process %s, %s)", p.Name(), telemetry.Printable(strings.TrimSpace(string(name))))
	}
	return ""
}

// socketsOf returns the inodes of a process's sockets, as far as this one may see them.
func socketsOf(process string) map[string]bool {
	folder := "/proc/" + process + "/fd"
	files, err := os.ReadDir(folder)
	if err != nil {
		return nil
	}
	inodes := make(map[string]bool, len(files))
	for _, f := range files {
		target, err := os.Readlink(filepath.Join(folder, f.Name()))
		if inode, isSocket := strings.CutPrefix(target, "socket:["); err == nil && isSocket {
			inodes[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return inodes
}
