package inbox

import (
	"cmp"
	"container/heap"
	"slices"
	"time"
)

// boltBox is the index of a box.
type boltBox struct {
	calls map[string]*boltCall // by key
	lanes map[string]*boltLane // by name
	due   dueLanes             // the same lanes
}

// boltCall is a kept call, as the index knows it.
type boltCall struct {
	sequence uint64
	key      string
	account  string
	lane     string
	received time.Time
	due      time.Time
	refused  bool
	dead     bool
}

// boltLane is the calls of a lane in their order, without the dead. There is at
// least one.
type boltLane struct {
	name  string
	calls []*boltCall
	place int // in dueLanes
}

func (l *boltLane) due() time.Time { return l.calls[0].due }

// dueLanes is a heap of lanes, with that on top which is due first.
type dueLanes []*boltLane

func (d *dueLanes) Len() int { return len(*d) }

func (d *dueLanes) Less(i, j int) bool {
	a, b := (*d)[i], (*d)[j]
	return cmp.Or(a.due().Compare(b.due()), cmp.Compare(a.calls[0].sequence, b.calls[0].sequence)) < 0
}

func (d *dueLanes) Swap(i, j int) {
	lanes := *d
	lanes[i], lanes[j] = lanes[j], lanes[i]
	lanes[i].place, lanes[j].place = i, j
}

func (d *dueLanes) Push(lane any) {
	l := lane.(*boltLane)
	l.place = len(*d)
	*d = append(*d, l)
}

func (d *dueLanes) Pop() any {
	last := len(*d) - 1
	lane := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	return lane
}

func newBoltBox() *boltBox {
	return &boltBox{calls: make(map[string]*boltCall), lanes: make(map[string]*boltLane)}
}

// add takes a call into the index, at the end of its lane.
func (b *boltBox) add(c *boltCall) {
	b.calls[c.key] = c
	if !c.dead {
		b.join(c)
	}
}

func (b *boltBox) join(c *boltCall) {
	if lane := b.lanes[c.lane]; lane != nil {
		lane.calls = append(lane.calls, c)
		return
	}
	lane := &boltLane{name: c.lane, calls: []*boltCall{c}}
	b.lanes[c.lane] = lane
	heap.Push(&b.due, lane)
}

// remove takes a call out of the index, if it is there.
func (b *boltBox) remove(key string) {
	if c := b.calls[key]; c != nil {
		b.quit(c)
		delete(b.calls, key)
	}
}

func (b *boltBox) quit(c *boltCall) {
	lane := b.lanes[c.lane]
	if lane == nil {
		return
	}
	if rest := slices.DeleteFunc(lane.calls, func(other *boltCall) bool { return other == c }); len(rest) > 0 {
		lane.calls = rest
		heap.Fix(&b.due, lane.place)
		return
	}
	lane.calls = []*boltCall{c} // it has to be comparable until it is out
	heap.Remove(&b.due, lane.place)
	delete(b.lanes, c.lane)
}

// moved puts a lane where its first call is due by now.
func (b *boltBox) moved(name string) {
	if lane := b.lanes[name]; lane != nil {
		heap.Fix(&b.due, lane.place)
	}
}

// hurry makes the calls in lanes that hurried speaks of due at now.
func (b *boltBox) hurry(now time.Time, hurried func(*boltCall) bool) {
	for _, lane := range b.lanes {
		for _, c := range lane.calls {
			if c.due.After(now) && hurried(c) {
				c.due = now
			}
		}
	}
	heap.Init(&b.due)
}

// dueAt returns at most limit lanes that are due at now, those first that have been
// for longest, and when the next one will be, or zero if there is none.
func (b *boltBox) dueAt(now time.Time, limit int) (lanes []string, next time.Time) {
	var found []*boltLane
	for len(b.due) > 0 {
		if first := b.due[0].due(); now.Before(first) {
			next = first
			break
		}
		if len(found) == limit {
			break
		}
		lane := heap.Pop(&b.due).(*boltLane)
		found = append(found, lane)
		lanes = append(lanes, lane.name)
	}
	for _, lane := range found {
		heap.Push(&b.due, lane)
	}
	return lanes, next
}
