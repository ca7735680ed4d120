DROP TABLE events;

DROP TABLE feed;
