// Package callindex keeps in memory which calls the inboxes of a file keep, and when they are due.
package callindex

import (
	"cmp"
	"container/heap"
	"slices"
	"time"
)

// Index is what is known of one inbox without reading its file. It is not safe for
// concurrent use.
type Index struct {
	Entries map[string]*Entry // by key
	groups  map[string]*group // by ordering key
	due     dueHeap           // the same groups
}

// Entry is a kept call in an index.
type Entry struct {
	Sequence    uint64
	Key         string
	Account     string
	OrderingKey string
	Received    time.Time
	Due         time.Time
	Refused     bool
	MaybeTaken  bool
	Dead        bool
}

// group is the calls of one ordering key in their order, without the dead ones. It is
// never empty.
type group struct {
	orderingKey string
	entries     []*Entry
	heapIndex   int // in dueHeap
}

func (g *group) due() time.Time { return g.entries[0].Due }

// dueHeap is a heap of groups. The group that is due first is on top.
type dueHeap []*group

func (d *dueHeap) Len() int { return len(*d) }

func (d *dueHeap) Less(i, j int) bool {
	a, b := (*d)[i], (*d)[j]
	return cmp.Or(a.due().Compare(b.due()), cmp.Compare(a.entries[0].Sequence, b.entries[0].Sequence)) < 0
}

func (d *dueHeap) Swap(i, j int) {
	groups := *d
	groups[i], groups[j] = groups[j], groups[i]
	groups[i].heapIndex, groups[j].heapIndex = i, j
}

func (d *dueHeap) Push(pushed any) {
	g := pushed.(*group)
	g.heapIndex = len(*d)
	*d = append(*d, g)
}

func (d *dueHeap) Pop() any {
	last := len(*d) - 1
	g := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	return g
}

// New returns an empty index.
func New() *Index {
	return &Index{Entries: make(map[string]*Entry), groups: make(map[string]*group)}
}

// Add adds a call to the index, as the last of its group.
func (x *Index) Add(e *Entry) {
	x.Entries[e.Key] = e
	if !e.Dead {
		x.addToGroup(e)
	}
}

func (x *Index) addToGroup(e *Entry) {
	if g := x.groups[e.OrderingKey]; g != nil {
		g.entries = append(g.entries, e)
		return
	}
	g := &group{orderingKey: e.OrderingKey, entries: []*Entry{e}}
	x.groups[e.OrderingKey] = g
	heap.Push(&x.due, g)
}

// Remove removes a call from the index, if it is there.
func (x *Index) Remove(key string) {
	if e := x.Entries[key]; e != nil {
		x.removeFromGroup(e)
		delete(x.Entries, key)
	}
}

func (x *Index) removeFromGroup(e *Entry) {
	g := x.groups[e.OrderingKey]
	if g == nil {
		return
	}
	if others := slices.DeleteFunc(g.entries, func(other *Entry) bool { return other == e }); len(others) > 0 {
		g.entries = others
		heap.Fix(&x.due, g.heapIndex)
		return
	}
	g.entries = []*Entry{e} // the heap compares the group until it is removed
	heap.Remove(&x.due, g.heapIndex)
	delete(x.groups, e.OrderingKey)
}

// FixDue restores the heap after the due time of a group's first call has changed.
func (x *Index) FixDue(orderingKey string) {
	if g := x.groups[orderingKey]; g != nil {
		heap.Fix(&x.due, g.heapIndex)
	}
}

// RetryNow makes the calls that match due at now.
func (x *Index) RetryNow(now time.Time, match func(*Entry) bool) {
	for _, g := range x.groups {
		for _, e := range g.entries {
			if e.Due.After(now) && match(e) {
				e.Due = now
			}
		}
	}
	heap.Init(&x.due)
}

// DueAt returns at most limit ordering keys that are due at now, the longest due
// first. next is when the next group is due, or zero if there is none.
func (x *Index) DueAt(now time.Time, limit int) (orderingKeys []string, next time.Time) {
	var found []*group
	for len(x.due) > 0 {
		if first := x.due[0].due(); now.Before(first) {
			next = first
			break
		}
		if len(found) == limit {
			break
		}
		g := heap.Pop(&x.due).(*group)
		found = append(found, g)
		orderingKeys = append(orderingKeys, g.orderingKey)
	}
	for _, g := range found {
		heap.Push(&x.due, g)
	}
	return orderingKeys, next
}

// First returns a copy of the first call of an ordering key that is not dead, or nil.
func (x *Index) First(orderingKey string) *Entry {
	g := x.groups[orderingKey]
	if g == nil {
		return nil
	}
	first := *g.entries[0]
	return &first
}
