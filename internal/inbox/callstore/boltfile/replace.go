package boltfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
)

const (
	folderMode = 0o700

	salvagingSuffix = ".salvaging" // of a new file that is not complete
	salvagedSuffix  = ".salvaged"  // of one that is, and not yet in its place

	savedAtOnce = 1000 // records in one transaction
	fullPages   = 0.9  // how full the pages of a new file are: it must not be larger than the old one
)

// Report says what [File.Replace] has done.
type Report struct {
	Aside   []string       // where the files that were in the place of the new one are now
	Saved   map[string]int // records, by bucket
	Spoiled int            // records that were in their place, and were not as they were written
}

// Replace saves what is readable into a new file, in the place of this one, and returns that.
// The caller must check it with [File.Walk]. What is in the place now is put aside; if that is
// another file of the same kind, such as a copy from a backup, its records are saved, too.
// After an error this file stays as it is.
func (f *File) Replace(s Salvage) (*File, Report, error) {
	report := Report{Saved: make(map[string]int)}
	if err := f.sameDevice(); err != nil {
		return nil, report, err
	}
	all := &salvager{Salvage: s, names: f.cfg.Buckets, finds: make(map[string]map[string]find)}
	info, err := f.f.Stat()
	if err != nil {
		return nil, report, err
	}
	all.file(f.f, info.Size())
	occupied, other, err := f.occupant()
	if err != nil {
		return nil, report, err
	}
	if other != nil {
		defer func() { _ = other.Close() }() // it was only read
		if info, err := other.Stat(); err == nil {
			all.file(other, info.Size())
		}
	}
	fresh, err := write(f.cfg, all, &report)
	if err != nil {
		return nil, report, err
	}
	if occupied {
		aside := f.aside()
		if err := os.Rename(f.cfg.Path, aside); err != nil {
			return nil, report, errors.Join(fmt.Errorf("putting the damaged file aside: %w", err), fresh.Close(), fresh.remove())
		}
		report.Aside = append(report.Aside, aside)
	}
	if err := fresh.settle(); err != nil {
		return nil, report, errors.Join(err, fresh.Close()) // a start finds it, if the old one is aside
	}
	report.Spoiled = all.spoiled
	return fresh, report, nil
}

// sameDevice returns an error if the folder, or the one in which it would be made again, is
// not on the file system of the file: that is then not mounted, and a file elsewhere would be
// hidden once it is again.
func (f *File) sameDevice() error {
	for folder := filepath.Dir(f.cfg.Path); ; folder = filepath.Dir(folder) {
		info, err := os.Stat(folder)
		switch {
		case err == nil && device(info) != device(f.place):
			return fmt.Errorf("the file system of %s is not mounted any more", filepath.Dir(f.cfg.Path))
		case err == nil || !errors.Is(err, os.ErrNotExist) || folder == filepath.Dir(folder):
			return err
		}
	}
}

// occupant reports whether anything is in the place of the file, and returns it if it is
// another file that can be read.
func (f *File) occupant() (occupied bool, other *os.File, err error) {
	if _, err := os.Lstat(f.cfg.Path); err != nil {
		return false, nil, nil //nolint:nilerr // then nothing is there, or the rename fails with a better error
	}
	now, err := os.Stat(f.cfg.Path)
	if err != nil || !now.Mode().IsRegular() || os.SameFile(now, f.place) {
		return true, nil, nil //nolint:nilerr // a link to nothing is put aside
	}
	if other, err = os.OpenFile(f.cfg.Path, os.O_RDWR|openFlags, 0); err != nil {
		return true, nil, nil //nolint:nilerr // it is put aside unread
	}
	if got, err := lock(other); err != nil || !got {
		return true, nil, errors.Join(fmt.Errorf("a file in its place: %w", ErrInUse), err, other.Close())
	}
	return true, other, nil
}

// aside returns a name for what is put aside.
func (f *File) aside() string {
	name := fmt.Sprintf("%s.corrupt-%s", f.cfg.Path, f.cfg.Now().UTC().Format("20060102T150405.000Z"))
	for n, free := 2, name; ; n++ {
		if _, err := os.Lstat(free); err != nil {
			return free
		}
		free = fmt.Sprintf("%s-%d", name, n)
	}
}

// create makes a new file in its place.
func create(cfg Config) (*File, error) {
	f, err := write(cfg, &salvager{names: cfg.Buckets}, nil)
	if err != nil {
		return nil, err
	}
	if err := f.settle(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// settle puts a new file in its place.
func (f *File) settle() error {
	if err := os.Rename(f.cfg.Path+salvagedSuffix, f.cfg.Path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(f.cfg.Path))
}

// write makes a new file beside its place, with the records that were found.
func write(cfg Config, found *salvager, report *Report) (*File, error) {
	if err := MakeFolder(filepath.Dir(cfg.Path)); err != nil {
		return nil, err
	}
	path := cfg.Path + salvagingSuffix
	if err := os.RemoveAll(path); err != nil {
		return nil, err
	}
	f := &File{cfg: cfg}
	var err error
	if f.f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode); err != nil {
		return nil, err
	}
	f.image = image{r: f.f, pageSize: int64(os.Getpagesize())}
	if err = f.fill(found, report); err == nil {
		err = os.Rename(path, cfg.Path+salvagedSuffix)
	}
	if err == nil {
		err = syncFolder(filepath.Dir(cfg.Path))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), f.remove())
	}
	return f, nil
}

// remove removes a new file that is not in its place, since its room may be needed.
func (f *File) remove() error {
	return errors.Join(os.RemoveAll(f.cfg.Path+salvagingSuffix), os.RemoveAll(f.cfg.Path+salvagedSuffix))
}

// fill writes the records that were found.
func (f *File) fill(found *salvager, report *Report) (err error) {
	if err := awaitLock(f.f, 0); err != nil {
		return err
	}
	if f.place, err = f.f.Stat(); err != nil {
		return err
	}
	if err := f.start(); err != nil {
		return err
	}
	f.limit(true)
	f.db.NoSync, f.db.MaxSize = true, 0 // what is saved may need more than the limit
	for _, name := range f.cfg.Buckets {
		finds := found.sorted(name)
		for first := true; first || len(finds) > 0; first = false {
			now := finds[:min(savedAtOnce, len(finds))]
			finds = finds[len(now):]
			if err := f.db.Update(func(tx *bolt.Tx) error { return found.put(tx, name, now, report) }); err != nil {
				return err
			}
		}
	}
	f.db.NoSync = false
	if err := f.db.Sync(); err != nil {
		return err
	}
	f.committed.Store(f.newestTx())
	f.begun.Store(f.committed.Load())
	return nil
}

// put writes records into a bucket.
func (s *salvager) put(tx *bolt.Tx, name string, finds []find, report *Report) error {
	b, err := tx.CreateBucketIfNotExists([]byte(name))
	if err != nil {
		return err
	}
	b.FillPercent = fullPages
	highest := b.Sequence()
	for _, found := range finds {
		value, ok := s.read(found)
		if !ok {
			s.spoiled++
			continue
		}
		if err := b.Put(found.Key, value); err != nil {
			return err
		}
		report.Saved[name]++
		highest = max(highest, found.Sequence)
		if len(found.Key) == sequenceSize {
			highest = max(highest, binary.BigEndian.Uint64(found.Key))
		}
	}
	return b.SetSequence(highest)
}
