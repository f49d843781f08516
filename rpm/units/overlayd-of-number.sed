# Makes overlayd@.service, the daemon of another network than 0, of overlayd.service: `systemctl enable --now overlayd@1`.
# Docker's default bridge is network 0's, and docker waits for that one only.
s|^Description=.*|Description=Overlay network %i of this host, beside that of overlayd.service|
/^# docker takes its bridge's address/d
/^Before=docker.service$/d
s|^EnvironmentFile=.*|EnvironmentFile=-/etc/sysconfig/overlayd.%i|
s|^ExecStart=/usr/bin/overlayd run|& --network-number=%i|
s|^# Docker and others start from the files in here|# Others start from the files in here|
s|^RuntimeDirectory=overlayd$|&%i|
s|^StateDirectory=overlayd$|&%i|
