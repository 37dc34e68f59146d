package callstore

import (
	"cmp"
	"container/heap"
	"slices"
	"time"
)

// index is what a [Bolt] knows of one inbox without reading its file.
type index struct {
	entries map[string]*entry // by key
	groups  map[string]*group // by ordering key
	due     dueHeap           // the same groups
}

// entry is a kept call in an index.
type entry struct {
	sequence    uint64
	key         string
	account     string
	orderingKey string
	received    time.Time
	due         time.Time
	refused     bool
	maybeTaken  bool
	dead        bool
}

// group is the calls of one ordering key in their order, without the dead ones. It is
// never empty.
type group struct {
	orderingKey string
	entries     []*entry
	heapIndex   int // in dueHeap
}

func (g *group) due() time.Time { return g.entries[0].due }

// dueHeap is a heap of groups. The group that is due first is on top.
type dueHeap []*group

func (d *dueHeap) Len() int { return len(*d) }

func (d *dueHeap) Less(i, j int) bool {
	a, b := (*d)[i], (*d)[j]
	return cmp.Or(a.due().Compare(b.due()), cmp.Compare(a.entries[0].sequence, b.entries[0].sequence)) < 0
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

func newIndex() *index {
	return &index{entries: make(map[string]*entry), groups: make(map[string]*group)}
}

// add adds a call to the index, as the last of its group.
func (x *index) add(e *entry) {
	x.entries[e.key] = e
	if !e.dead {
		x.addToGroup(e)
	}
}

func (x *index) addToGroup(e *entry) {
	if g := x.groups[e.orderingKey]; g != nil {
		g.entries = append(g.entries, e)
		return
	}
	g := &group{orderingKey: e.orderingKey, entries: []*entry{e}}
	x.groups[e.orderingKey] = g
	heap.Push(&x.due, g)
}

// remove removes a call from the index, if it is there.
func (x *index) remove(key string) {
	if e := x.entries[key]; e != nil {
		x.removeFromGroup(e)
		delete(x.entries, key)
	}
}

func (x *index) removeFromGroup(e *entry) {
	g := x.groups[e.orderingKey]
	if g == nil {
		return
	}
	if others := slices.DeleteFunc(g.entries, func(other *entry) bool { return other == e }); len(others) > 0 {
		g.entries = others
		heap.Fix(&x.due, g.heapIndex)
		return
	}
	g.entries = []*entry{e} // the heap compares the group until it is removed
	heap.Remove(&x.due, g.heapIndex)
	delete(x.groups, e.orderingKey)
}

// fixDue restores the heap after the due time of a group's first call has changed.
func (x *index) fixDue(orderingKey string) {
	if g := x.groups[orderingKey]; g != nil {
		heap.Fix(&x.due, g.heapIndex)
	}
}

// retryNow makes the calls that match due at now.
func (x *index) retryNow(now time.Time, match func(*entry) bool) {
	for _, g := range x.groups {
		for _, e := range g.entries {
			if e.due.After(now) && match(e) {
				e.due = now
			}
		}
	}
	heap.Init(&x.due)
}

// dueAt returns at most limit ordering keys that are due at now, the longest due
// first. next is when the next group is due, or zero if there is none.
func (x *index) dueAt(now time.Time, limit int) (orderingKeys []string, next time.Time) {
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
