//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package boltfile

import "os"

const openFlags = 0

// lock leaves the lock to bbolt, which takes its own.
func lock(*os.File) (bool, error) { return true, nil }

// device knows no file systems here.
func device(os.FileInfo) uint64 { return 0 }
