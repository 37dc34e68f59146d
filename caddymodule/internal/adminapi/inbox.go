package adminapi

import (
	"fmt"
	"time"
)

// InboxState is an inbox in the admin API.
type InboxState struct {
	Name    string     `json:"name"`
	Policy  string     `json:"policy"`
	KeptIn  string     `json:"kept_in"` // a folder, or "redis"
	Waiting int        `json:"waiting"`
	Dead    int        `json:"dead"`
	Oldest  *time.Time `json:"oldest,omitempty"` // when the oldest that waits came in
	Orphan  bool       `json:"orphan,omitempty"` // whether no handler has this name, so that nothing is delivered
	Error   string     `json:"error,omitempty"`  // why it cannot be read

	// Recent has notifications that this sidecar had within the last hour, and that are not
	// in the inbox although the app has not taken them.
	Recent *InboxRecent `json:"recent,omitempty"`
}

// InboxRecent are figures of one sidecar.
type InboxRecent struct {
	Since   time.Time `json:"since"`    // an hour ago, or when the sidecar started
	Refused int       `json:"refused"`  // the app said no, and DOKU has that answer
	NotKept int       `json:"not_kept"` // they could not be kept: only DOKU's own retry brings them again
}

// Kept says in words what the inbox keeps now.
func (s *InboxState) Kept() string {
	if s.Error != "" {
		return "cannot be read: " + s.Error
	}
	kept := "is empty now"
	if s.Waiting+s.Dead > 0 {
		kept = fmt.Sprintf("%d waiting for the app, %d given up", s.Waiting, s.Dead)
	}
	if s.Oldest != nil {
		kept += ", the oldest since " + s.Oldest.Local().Format(time.RFC3339)
	}
	if s.Orphan {
		kept += "; no doku_inbox of the configuration delivers it"
	}
	return kept
}

// NotKept says in words what the sidecar did not keep within the last hour. It has no line
// if that is nothing.
func (s *InboxState) NotKept() (lines []string) {
	if s.Recent == nil {
		return nil
	}
	since := s.Recent.Since.Local().Format(time.RFC3339)
	if n := s.Recent.Refused; n > 0 {
		lines = append(lines, fmt.Sprintf("since %s the app has refused %d: DOKU has its answer, and they are not kept", since, n))
	}
	if n := s.Recent.NotKept; n > 0 {
		lines = append(lines, fmt.Sprintf("since %s %d COULD NOT BE KEPT: only DOKU's own retry brings them again", since, n))
	}
	return lines
}
